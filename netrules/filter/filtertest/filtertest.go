// Package filtertest shows tests what rules there are, whichever way they got there, and
// breaks them as others do.
package filtertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nft"
)

// Save returns what iptables-save (or ip6tables-save) prints, and after it what is in our own
// tables as that would print it.
func Save(t testing.TB, ns *netns.Namespace, f netrules.Family) string {
	t.Helper()
	return netlab.SaveWith(t, ns, f.Command()+"-save") + Own(t, ns, f)
}

// Own is what is in our own table of a family.
func Own(t testing.TB, ns *netns.Namespace, f netrules.Family) string {
	t.Helper()
	state, err := new(nft.Rules).Read(t.Context(), ns, f)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, c := range state.Chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
		for _, args := range c.Rules {
			b.WriteString(netrules.RuleText(c.Name, args) + "\n")
		}
	}
	return b.String()
}

// Flush takes all rules out of the nat table and out of ours.
func Flush(t testing.TB, ns *netns.Namespace, f netrules.Family) {
	t.Helper()
	netlab.RunIn(t, ns, f.Command(), "-t", "nat", "-F")
	if Own(t, ns, f) != "" {
		netlab.RunIn(t, ns, "nft", "flush", "table", family(f), nft.Table)
	}
}

// FlushChain empties a chain of ours, whichever way it got there.
func FlushChain(t testing.TB, ns *netns.Namespace, f netrules.Family, chain string) {
	t.Helper()
	if Own(t, ns, f) != "" {
		netlab.RunIn(t, ns, "nft", "flush", "chain", family(f), nft.Table, chain)
		return
	}
	netlab.RunIn(t, ns, f.Command(), "-t", "nat", "-F", chain)
}

// Unhook deletes the jump from hook to a chain of ours, whichever way it got there.
func Unhook(t testing.TB, ns *netns.Namespace, f netrules.Family, hook, chain string) {
	t.Helper()
	if Own(t, ns, f) != "" {
		netlab.RunIn(t, ns, "nft", "flush", "chain", family(f), nft.Table, hook)
		return
	}
	netlab.RunIn(t, ns, f.Command(), "-t", "nat", "-D", hook, "-m", "comment", "--comment", netrules.JumpComment, "-j", chain)
}

func family(f netrules.Family) string {
	if f == netrules.IPv6 {
		return "ip6"
	}
	return "ip"
}
