//go:build integration

package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

// unprintable is a rule that iptables has no words for.
const unprintable = "tcp dport 9999 redirect to :1"

// blinded is a lab in whose nat table is such a rule, in chain.
func blinded(t *testing.T, f netrules.Family, chain string) *netlab.Lab {
	t.Helper()
	lab := netlab.New(t)
	nft := nftName(f)
	lab.Run(t, strings.ReplaceAll(`add table FAMILY nat
add chain FAMILY nat OUTPUT { type nat hook output priority -100; policy accept; }
add chain FAMILY nat PREROUTING { type nat hook prerouting priority -100; policy accept; }
add chain FAMILY nat MINE
add rule FAMILY nat MINE accept
add rule FAMILY nat OUTPUT tcp dport 7 accept
`, "FAMILY", nft), "nft", "-f", "-")
	lab.Run(t, "", "nft", "add", "rule", nft, "nat", chain, unprintable)
	return lab
}

func nftName(f netrules.Family) string {
	if f == netrules.IPv6 {
		return "ip6"
	}
	return "ip"
}

func ruleset(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	return lab.Run(t, "", "nft", "-a", "list", "ruleset")
}

// leadsIn counts the rules that lead to our chain.
func leadsIn(text string) int {
	return strings.Count(text, "jump AMBASSADORD") + strings.Count(text, "goto AMBASSADORD")
}

func newNFT(t *testing.T) *Rules {
	t.Helper()
	r, err := New(t.Context(), Prefer(NFT))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestUnlistedTable: where one rule keeps iptables from listing the table, ours are made,
// found in order, repaired, unhooked and removed, and nothing else is touched.
func TestUnlistedTable(t *testing.T) {
	r := newNFT(t)
	for _, f := range families {
		for _, where := range []string{"OUTPUT", "PREROUTING", "MINE"} {
			t.Run(f.String()+"-"+where, func(t *testing.T) {
				lab := blinded(t, f, where)
				before := ruleset(t, lab)
				chain := redirect(f, 6379, 5432)
				ensure := func(what string, changes bool) {
					t.Helper()
					a, err := r.Ensure(t.Context(), lab.NS(), chain)
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					if (len(a.Changes) > 0) != changes {
						t.Errorf("%s: changes %v", what, a.Changes)
					}
					if !errors.Is(a.Unlisted, ErrUnlisted) || !strings.Contains(hint.Of(a.Unlisted), "nft list table "+nftName(f)+" nat") {
						t.Errorf("%s: it says %v (hint: %q)", what, a.Unlisted, hint.Of(a.Unlisted))
					}
					if text := ruleset(t, lab); leadsIn(text) != 1 || strings.Count(text, "tcp dport 5432") != 1 {
						t.Errorf("%s: there is\n%s", what, text)
					}
				}
				serve(t, lab, loopback(f, listenPort), "listener")
				ensure("the first", true)
				ensure("nothing to do", false)
				jump := strings.Join(chain.Jump().Args(), " ")
				prog := program(r, f)
				for _, harm := range []string{
					prog + " -t nat -F AMBASSADORD",
					prog + " -t nat -D AMBASSADORD 1",
					prog + " -t nat -D OUTPUT " + jump,
					prog + " -t nat -I OUTPUT " + jump,
					prog + " -t nat -A MINE -j AMBASSADORD",
					prog + " -t nat -A PREROUTING -g AMBASSADORD",
					"nft add rule " + nftName(f) + " nat OUTPUT tcp dport 8 counter jump AMBASSADORD",
					"nft add rule " + nftName(f) + " nat AMBASSADORD " + unprintable,
					"nft insert rule " + nftName(f) + " nat AMBASSADORD " + unprintable,
				} {
					fields := strings.Fields(harm)
					lab.Run(t, "", fields[0], fields[1:]...)
					ensure(harm, true)
					ensure("after "+harm, false)
					if line, _, _ := greeted(t, lab, loopback(f, 5432)); line != "listener 5432\n" {
						t.Errorf("after %s a connection reaches %q", harm, line)
					}
				}
				state, err := r.ReadCounters(t.Context(), lab.NS(), f)
				if err != nil || len(netrules.Plan(chain, state)) > 0 || !errors.Is(state.Unlisted, ErrUnlisted) {
					t.Errorf("with counters: %v, %v, to change: %v", err, state.Unlisted, netrules.Plan(chain, state))
				}
				for want := range 2 { // once hooked, once no more
					changes, err := r.Unhook(t.Context(), lab.NS(), f)
					if err != nil || len(changes) != 1-want || leadsIn(ruleset(t, lab)) != 0 {
						t.Errorf("unhook: %v, %v\n%s", changes, err, ruleset(t, lab))
					}
				}
				ensure("hooked again", true)
				lab.Run(t, "", "nft", "add", "rule", nftName(f), "nat", "MINE", "goto", "AMBASSADORD")
				lab.Run(t, "", "nft", "add", "rule", nftName(f), "nat", "AMBASSADORD", unprintable)
				removed := mustRemove(t, r, lab, f)
				if diff := cmp.Diff(Removed{Chains: []string{"AMBASSADORD"}}, removed); diff != "" {
					t.Errorf("removed: -want +got:\n%s", diff)
				}
				mustDrop(t, r, lab, f)
				if diff := cmp.Diff(before, ruleset(t, lab)); diff != "" {
					t.Errorf("what is not ours: -before +after:\n%s", diff)
				}
				if again := mustRemove(t, r, lab, f); len(again.Chains) > 0 {
					t.Errorf("removed twice: %+v", again)
				}
			})
		}
	}
}

// TestUnlistedKeepsTheMark: that the table was made by us is known, also where it cannot be
// listed, and it goes once what kept it from that has gone.
func TestUnlistedKeepsTheMark(t *testing.T) {
	r := newNFT(t)
	for _, f := range families {
		lab := netlab.New(t)
		before := ruleset(t, lab)
		mustApply(t, r, lab, redirect(f, 6379))
		lab.Run(t, "", "nft", "add", "rule", nftName(f), "nat", "AMBASSADORD", unprintable)
		if removed := mustRemove(t, r, lab, f); !removed.MadeTable {
			t.Errorf("%s: %+v", f, removed)
		}
		mustDrop(t, r, lab, f)
		if after := ruleset(t, lab); after != before {
			t.Errorf("%s: left behind:\n%s", f, after)
		}
		// A chain of somebody else's with such a rule keeps the table.
		mustApply(t, r, lab, redirect(f, 6379))
		lab.Run(t, "", "nft", "add", "rule", nftName(f), "nat", "OUTPUT", unprintable)
		if removed := mustRemove(t, r, lab, f); !removed.MadeTable {
			t.Errorf("%s: beside another's rule: %+v", f, removed)
		}
		mustDrop(t, r, lab, f)
		if after := ruleset(t, lab); !strings.Contains(after, unprintable) || strings.Contains(after, "AMBASSADORD") {
			t.Errorf("%s: beside another's rule there is now:\n%s", f, after)
		}
	}
}

// TestUnlistedInTheOtherFilter: what an older daemon left in the packet filter that is not
// used is removed from a table that its iptables cannot list.
func TestUnlistedInTheOtherFilter(t *testing.T) {
	legacy, err := New(t.Context(), Prefer(Legacy))
	if err != nil {
		t.Fatal(err)
	}
	lab := blinded(t, netrules.IPv4, "OUTPUT")
	before := ruleset(t, lab)
	mustApply(t, newNFT(t), lab, redirect(netrules.IPv4, 6379))
	mustApply(t, legacy, lab, redirect(netrules.IPv4, 6379))
	if diff := cmp.Diff(before, ruleset(t, lab)); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	mustRemove(t, legacy, lab, netrules.IPv4)
}

// TestUnlistedIsBounded: many rules and chains of others do not make it slow.
func TestUnlistedIsBounded(t *testing.T) {
	r := newNFT(t)
	lab := blinded(t, netrules.IPv4, "OUTPUT")
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "add chain ip nat C%d\nadd chain ip nat AMBASSADORD_%d\n", i, i)
		for range 3 {
			fmt.Fprintf(&b, "add rule ip nat C%d counter jump AMBASSADORD_%d\n", i, i)
		}
	}
	lab.Run(t, b.String(), "nft", "-f", "-")
	began := time.Now()
	mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
	applied := time.Since(began)
	removed := mustRemove(t, r, lab, netrules.IPv4)
	if took := time.Since(began); len(removed.Chains) != 1001 || took > 10*time.Second {
		t.Errorf("%d chains removed, in %s (applied in %s)", len(removed.Chains), took, applied)
	}
	if text := ruleset(t, lab); strings.Contains(text, "AMBASSADORD") || strings.Count(text, "chain C") != 1000 {
		t.Errorf("left: %d of ours, %d of others", strings.Count(text, "AMBASSADORD"), strings.Count(text, "chain C"))
	}
	if slices.ContainsFunc(removed.Chains, func(name string) bool { return !strings.HasPrefix(name, "AMBASSADORD") }) {
		t.Errorf("removed %v", removed.Chains)
	}
}

// TestNumbersOfAnotherTable: the table is made anew before the deletion, or amid it, and the number
// of the rule that led to ours is somebody else's by then. That rule stays.
func TestNumbersOfAnotherTable(t *testing.T) {
	tool := newNFT(t).v4
	for _, amid := range []bool{false, true} {
		lab := netlab.New(t)
		table := func(rule string) string {
			return `add table ip nat
add chain ip nat AMBASSADORD
add chain ip nat OUTPUT { type nat hook output priority -100; policy accept; }
add rule ip nat OUTPUT ` + rule + "\n"
		}
		lab.Run(t, table("tcp dport 9 counter jump AMBASSADORD"), "nft", "-f", "-")
		_, number, _ := strings.Cut(ruleset(t, lab), "jump AMBASSADORD # handle ")
		handle, err := strconv.ParseUint(strings.Fields(number)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		remade := false
		remake := func() {
			if remade {
				return
			}
			remade = true
			lab.Run(t, "", "nft", "delete", "table", "ip", "nat")
			lab.Run(t, table("tcp dport 99 counter accept"), "nft", "-f", "-")
		}
		if amid {
			tool.before = func(string) error { remake(); return nil }
		} else {
			remake()
		}
		change := netrules.Change{Family: tool.family, Table: natTable, Op: netrules.Delete, Chain: "OUTPUT", Args: []string{"-j", "AMBASSADORD"}, Handle: handle}
		err = lab.NS().Do(func() error { return tool.byNetlink().deleteNumbered(t.Context(), []netrules.Change{change}) })
		tool.before = nil
		if err != nil || !remade {
			t.Errorf("amid it: %t: %v, made anew: %t", amid, err, remade)
		}
		if text := ruleset(t, lab); !strings.Contains(text, fmt.Sprintf("accept # handle %d", handle)) {
			t.Errorf("amid it: %t: number %d was ours, and there is now:\n%s", amid, handle, text)
		}
	}
}
