//go:build integration

package iptables

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

// TestNothingOfOursIsLeft: whatever somebody has done to our rules meanwhile, and whether they
// were repaired after it or not, once they are removed the ruleset is what it was before:
// without a table, or a chain in somebody else's table, that we have made.
func TestNothingOfOursIsLeft(t *testing.T) {
	r := newNFT(t)
	for _, f := range families {
		name, prog := nftName(f), program(r, f)
		for mode, chain := range map[string]netrules.Chain{
			"redirect": redirect(f, 6379),
			"host":     netrules.Host(f, netip.MustParseAddr(hostAddrs[f]), listenPort),
		} {
			for what, before := range map[string]string{
				"no table":        "",
				"empty table":     "add table ip nat",
				"postrouting":     "add table ip nat; add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }; add rule ip nat POSTROUTING tcp dport 9 masquerade",
				"an empty output": "add table ip nat; add chain ip nat OUTPUT { type nat hook output priority -100; }",
				"an empty prerouting, in a table with a comment": "add table ip nat { comment \"mine\"; }; add chain ip nat PREROUTING { type nat hook prerouting priority -100; }",
			} {
				for _, harm := range []string{
					"", "-F " + chain.Name, "-D " + chain.Name + " 1", "-F", "-F; -X", "-D " + chain.Hook + " 1; -F " + chain.Name + "; -X " + chain.Name,
				} {
					for _, repaired := range []bool{true, false} {
						lab := netlab.New(t)
						if before != "" {
							lab.Run(t, "", "nft", strings.ReplaceAll(before, "ip nat", name+" nat"))
						}
						want := lab.Run(t, "", "nft", "list", "ruleset")
						mustApply(t, r, lab, chain)
						others := want != "" && (harm == "-F" || harm == "-F; -X") // flushes others' rules, too
						for _, command := range strings.Split(harm, "; ") {
							if command != "" && !others {
								lab.Run(t, "", prog, append([]string{"-t", "nat"}, strings.Fields(command)...)...)
							}
						}
						if repaired {
							mustApply(t, r, lab, chain)
						}
						if removed := mustRemove(t, r, lab, f); removed.MadeTable {
							mustDrop(t, r, lab, f)
						}
						if diff := cmp.Diff(want, lab.Run(t, "", "nft", "list", "ruleset")); diff != "" {
							t.Errorf("%s, mode %s, %s, %q, repaired %v: -before +after:\n%s", f, mode, what, harm, repaired, diff)
						}
					}
				}
			}
		}
	}
}

// TestWhatOthersPutIntoOurTableStays: the table that we have made is not taken from somebody
// who uses it by now, nor are our empty chains left in it.
func TestWhatOthersPutIntoOurTableStays(t *testing.T) {
	r := newNFT(t)
	lab := netlab.New(t)
	mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
	lab.Run(t, "", program(r, netrules.IPv4), "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT")
	if removed := mustRemove(t, r, lab, netrules.IPv4); !removed.MadeTable {
		t.Errorf("%+v", removed)
	}
	mustDrop(t, r, lab, netrules.IPv4)
	after := lab.Run(t, "", "nft", "list", "ruleset")
	if strings.Contains(after, "OUTPUT") || !strings.Contains(after, "chain POSTROUTING") || !strings.Contains(after, "accept") {
		t.Errorf("there is now:\n%s", after)
	}
	// And goes when they have gone.
	mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
	lab.Run(t, "", program(r, netrules.IPv4), "-t", "nat", "-F", "POSTROUTING")
	mustRemove(t, r, lab, netrules.IPv4)
	mustDrop(t, r, lab, netrules.IPv4)
	if after := lab.Run(t, "", "nft", "list", "ruleset"); after != "" {
		t.Errorf("left behind:\n%s", after)
	}
}

// TestOtherFiltersTable: the table that an older daemon made in the nft filter goes when the
// legacy one is used, although somebody has removed its chain.
func TestOtherFiltersTable(t *testing.T) {
	legacy, err := New(t.Context(), Prefer(Legacy))
	if err != nil {
		t.Fatal(err)
	}
	for _, harm := range []string{"", "-F", "-F; -X"} {
		lab := netlab.New(t)
		mustApply(t, newNFT(t), lab, redirect(netrules.IPv4, 6379))
		for _, command := range strings.Split(harm, "; ") {
			if command != "" {
				lab.Run(t, "", "iptables-nft", "-t", "nat", command)
			}
		}
		mustApply(t, legacy, lab, redirect(netrules.IPv4, 6379))
		if after := lab.Run(t, "", "nft", "list", "ruleset"); after != "" {
			t.Errorf("after %q the other packet filter holds:\n%s", harm, after)
		}
	}
}
