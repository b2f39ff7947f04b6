//go:build integration

package nft

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

var (
	seed  = flag.Uint64("seed", 0, "of TestAnyStartingState; 0 for another one each time")
	cases = flag.Int("cases", 12, "of TestAnyStartingState")
)

// TestAnyStartingState: whatever somebody has made of our tables, and of others beside them,
// an Apply reaches the plan, an Unhook leaves nothing that leads to ours, a Remove takes our
// tables away, and what is not ours stays as it is.
func TestAnyStartingState(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d", *seed)
	for i := range *cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			r := rand.New(rand.NewPCG(*seed, uint64(i)))
			lab := netlab.New(t)
			start := startingState(r)
			lab.Run(t, others, "nft", "-f", "-")
			breakBy(t, lab, start)
			foreign := foreignTables(t, lab)
			chains := desired(r)
			if r.IntN(2) == 0 { // once applied already, and then broken
				mustApply(t, lab, chains...)
				again := startingState(r)
				start += "after an apply:\n" + again
				breakBy(t, lab, again)
			}
			defer func() {
				if t.Failed() {
					t.Logf("start:\n%s\nnow:\n%s", start, ruleset(t, lab))
				}
			}()

			mustApply(t, lab, chains...)
			for _, c := range chains {
				state := mustRead(t, lab, c.Family)
				if changes := netrules.Plan(c, state); len(changes) > 0 {
					t.Fatalf("applied, and yet to change: %v", changes)
				}
				if jumps := state.Jumps(c.Name); len(jumps) != 1 || jumps[0].Chain != c.Hook {
					t.Fatalf("jumps: %v", jumps)
				}
			}
			for _, c := range chains {
				lab.Do(t, func() error {
					_, flags, err := tableThere(c.Family)
					_, hooked, askErr := askChain(c.Family, c.Hook)
					if flags != 0 || hooked != right {
						t.Errorf("%s: the table's flags are %d, the chain at the hook is %d", c.Family, flags, hooked)
					}
					return errors.Join(err, askErr)
				})
			}
			if changes := mustApply(t, lab, chains...); len(changes) > 0 {
				t.Errorf("applied twice: %v", changes)
			}
			if diff := cmp.Diff(foreign, foreignTables(t, lab)); diff != "" {
				t.Errorf("what is not ours: -before +after:\n%s", diff)
			}
			if err := new(Rules).Unhook(t.Context(), lab.NS()); err != nil {
				t.Fatal(err)
			}
			if text := ruleset(t, lab); strings.Contains(text, "jump AMBASSADORD") || !strings.Contains(text, "chain AMBASSADORD") {
				t.Errorf("unhooked:\n%s", text)
			}
			if _, err := new(Rules).Remove(t.Context(), lab.NS()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(foreign, ruleset(t, lab)); diff != "" {
				t.Errorf("removed: -what is not ours +what is there:\n%s", diff)
			}
		})
	}
}

// breakBy runs a script line by line; what does not fit fails.
func breakBy(t *testing.T, lab *netlab.Lab, script string) {
	t.Helper()
	lab.Do(t, func() error {
		for line := range strings.Lines(script) {
			_ = tryCommand(line)
		}
		return nil
	})
}

// desired are the chains of a mode, for one family or both.
func desired(r *rand.Rand) []netrules.Chain {
	fs := [][]netrules.Family{{netrules.IPv4}, {netrules.IPv6}, netrules.Families()}[r.IntN(3)]
	mode := r.IntN(4)
	var ports []netrules.Port
	for range r.IntN(5) {
		ports = append(ports, netrules.Port{Number: uint16(1 + r.IntN(65535)), Comment: "web (3f2a5c0e9b1d) label connect"})
	}
	var chains []netrules.Chain
	for _, f := range fs {
		switch mode {
		case 0:
			chains = append(chains, netrules.Link(f, 10000))
		case 1:
			addr := netip.MustParseAddr("169.254.7.7")
			if f == netrules.IPv6 {
				addr = netip.MustParseAddr("fd00:7::7")
			}
			chains = append(chains, netrules.Host(f, addr, 10000))
		default:
			chains = append(chains, netrules.Redirect(f, 15001, ports))
		}
	}
	return chains
}

// others are tables of others, of the same names in other families among them.
const others = `add table ip nat
add chain ip nat OUTPUT { type nat hook output priority -100; policy accept; }
add chain ip nat AMBASSADORDX
add rule ip nat OUTPUT tcp dport 8080 counter redirect to :80
add table inet ambassadord
add chain inet ambassadord keep-tracking
add rule inet ambassadord keep-tracking ct state new
add table ip ambassadord-other
`

// startingState is a script of nft that makes something of our tables.
func startingState(r *rand.Rand) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, family := range []string{"ip", "ip6"} {
		if r.IntN(5) == 0 {
			continue
		}
		flags := ""
		if r.IntN(6) == 0 {
			flags = " { flags dormant; }"
		}
		say("add table %s ambassadord%s", family, flags)
		for _, name := range []string{"OUTPUT", "PREROUTING"} {
			hook := strings.ToLower(name)
			switch r.IntN(5) {
			case 0:
			case 1:
				say("add chain %s ambassadord %s", family, name)
			case 2:
				say("add chain %s ambassadord %s { type filter hook %s priority -150; policy accept; }", family, name, hook)
			case 3:
				say("add chain %s ambassadord %s { type nat hook %s priority -101; policy accept; }", family, name, hook)
				if r.IntN(2) == 0 {
					say("add rule %s ambassadord %s %s", family, name, []string{"accept", "tcp dport 7 drop", "meta mark 1 return"}[r.IntN(3)])
				}
			case 4:
				say("add chain %s ambassadord %s { type nat hook %s priority -100; policy accept; }", family, name, hook)
			}
			for _, chain := range []string{"AMBASSADORD", "AMBASSADORD_OLD", "AMBASSADORD_HOST"} {
				if r.IntN(2) == 0 {
					continue
				}
				say("add chain %s ambassadord %s", family, chain)
				for range r.IntN(3) {
					say("add rule %s ambassadord %s %s", family, chain, []string{
						"counter accept",
						"tcp dport 6379 redirect to :15001",
						"tcp dport 6379 ct state new counter redirect to :15001 comment \"ambassadord: web's\"",
						"meta nftrace set 1",
						"limit rate 3/second return",
					}[r.IntN(5)])
				}
				say("add chain %s ambassadord %s", family, name)
				for range r.IntN(3) {
					say("add rule %s ambassadord %s %s %s", family, name, []string{"counter jump", "tcp dport 1 goto", "jump"}[r.IntN(3)], chain)
				}
			}
		}
	}
	return b.String()
}

// foreignTables is the rule set without our tables.
func foreignTables(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	var b strings.Builder
	skip := false
	for line := range strings.Lines(ruleset(t, lab)) {
		if strings.HasPrefix(line, "table ") {
			skip = line == "table ip ambassadord {\n" || line == "table ip6 ambassadord {\n"
		}
		if !skip {
			b.WriteString(line)
		}
	}
	return b.String()
}

// A table that somebody has put to sleep redirects nothing, whatever is in it.
func TestDormantTable(t *testing.T) {
	lab := netlab.New(t)
	chain := netrules.Redirect(netrules.IPv4, 15001, []netrules.Port{{Number: 6379}})
	mustApply(t, lab, chain)
	lab.Run(t, "", "nft", "add table ip ambassadord { flags dormant; }")
	if changes := mustApply(t, lab, chain); len(changes) == 0 {
		t.Error("nothing to repair of a dormant table")
	}
	if text := ruleset(t, lab); strings.Contains(text, "dormant") || !strings.Contains(text, "jump AMBASSADORD") {
		t.Errorf("repaired:\n%s", text)
	}
}

// A process that has put any number of rules into our table keeps itself waiting, and not long; rules
// that are too many are not read, and removed all the same.
func TestManyRules(t *testing.T) {
	lab := netlab.New(t)
	chain := netrules.Redirect(netrules.IPv4, 15001, []netrules.Port{{Number: 6379}})
	mustApply(t, lab, chain)
	if heavy, err := new(Rules).Heavy(lab.NS()); err != nil || heavy {
		t.Errorf("heavy as applied: %v, %v", heavy, err)
	}
	var many strings.Builder
	for range maxRules + 1 {
		many.WriteString("add rule ip ambassadord AMBASSADORD accept\n")
	}
	lab.Run(t, many.String(), "nft", "-f", "-")
	began := time.Now()
	if heavy, err := new(Rules).Heavy(lab.NS()); err != nil || !heavy {
		t.Errorf("with many rules it is heavy: %v, %v", heavy, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("to count no further than is many took %s", took)
	}
	_, _, err := new(Rules).Apply(t.Context(), lab.NS(), chain)
	if err == nil || !strings.Contains(err.Error(), "more than 100000 rules") || !strings.Contains(hint.Of(err), "nft list table ip ambassadord") {
		t.Errorf("apply: %v, hint %q", err, hint.Of(err))
	}
	if removed, err := new(Rules).Remove(t.Context(), lab.NS()); err != nil || len(removed[netrules.IPv4]) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if left := ruleset(t, lab); left != "" {
		t.Errorf("left behind: %.200s", left)
	}
}

// As many ports as a container may declare are one transaction.
func TestAsManyPortsAsThereMayBe(t *testing.T) {
	lab := netlab.New(t)
	var ports []netrules.Port
	for i := range 2048 {
		ports = append(ports, netrules.Port{Number: uint16(1 + i), Comment: strings.Repeat("c", 200)})
	}
	chains := []netrules.Chain{netrules.Redirect(netrules.IPv4, 61000, ports), netrules.Redirect(netrules.IPv6, 61000, ports)}
	if changes := mustApply(t, lab, chains...); len(changes) < 2*len(ports) {
		t.Errorf("%d changes", len(changes))
	}
	if changes := mustApply(t, lab, chains...); len(changes) > 0 {
		t.Errorf("applied twice: %d changes", len(changes))
	}
}

// What a table that another process owns is for, we cannot say, and cannot have.
func TestTableOfAnother(t *testing.T) {
	lab := netlab.New(t)
	own(t, lab)
	_, _, err := new(Rules).Apply(t.Context(), lab.NS(), netrules.Redirect(netrules.IPv4, 61000, []netrules.Port{{Number: 6379}}))
	if err == nil || !strings.Contains(hint.Of(err), "another process owns") {
		t.Errorf("%v, hint %q; want that another process owns it", err, hint.Of(err))
	}
}
