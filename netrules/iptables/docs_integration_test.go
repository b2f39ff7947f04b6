//go:build integration

package iptables

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/nft"
)

const docsHead = `# The rules

What ambassadord puts into the kernel, where, and why. This page is made from the
plan that the daemon applies and from a live run of it, by
` + "`go test -tags integration ./netrules/iptables -run TestDocs -update`" + `; the same test
fails when the page and the program differ.

- There are two ways to set them (` + "`--rules`" + `): by iptables, as this page has it first, and by
  netlink alone, [without iptables](#without-iptables). A host has one of them; what an
  earlier daemon has set by the other goes with the first apply.
- These rules are in chains whose names start with AMBASSADORD, in the table nat;
  every one says in a comment whose it is. In a chain of the kernel's own there is
  one rule of ours, the jump.
- A chain and its jump are put there, and removed, by one transaction of
  iptables-restore each: whenever either is interrupted, all of it is there or none.
- What is there already is left alone; what differs is set right again. A jump that
  our hook has to a chain of an earlier daemon goes.
- A rule that leads to us matches the segment that opens a connection, SYN without FIN, RST
  and ACK, and no other: a connection that is older than the rule goes on as it was. Rules
  of an older version, which matched any, are replaced by the next apply or repair. What came
  by such a rule is translated for as long as the kernel tracks it; whoever deletes its entry
  (` + "`conntrack -F`" + `) breaks it. The rule of mode host matches any segment: Docker itself deletes
  the entries of a container's address when its networks change, and by its own rules it has
  all connections of a host tracked, so that none is taken for a new one.
- No chain that is not ours is ever flushed, and no rule of others changed or moved.
- A rule that iptables has no words for, which somebody adds by nft to this table, keeps
  iptables from listing it. Then nftables is asked which chains of ours there are and what
  leads to them; they are kept in order and removed all the same, in two transactions. The
  log, rules show and doctor say where that is so.
- The packet filter is the one that Docker uses on this host, nf_tables or legacy.
  What an earlier daemon left of ours in the other one is removed.
- Mode host has its addresses on lo besides, for as long as the daemon renews them,
  and modes host and link a table of the bridge family, which goes with its process.

| command | does |
| --- | --- |
| ` + "`ambassadord rules plan`" + ` | prints the rules with what would change: + to add, - to remove; ` + "`--mode host`" + `: with the addresses and the bridge table |
| ` + "`ambassadord rules show`" + ` | prints the rules that are there, the addresses and the bridge tables, with packet counters, whose and why; and what dead daemons left, or connections need that another process carries on |
| ` + "`ambassadord rules apply --listen-port PORT`" + ` | sets the chains once, for another process that listens at PORT |
| ` + "`ambassadord rules remove`" + ` | removes all of them and the addresses, in every network namespace and both packet filters; beside a running daemon only with ` + "`--force`" + `, and then that puts them back, in containers at once |
`

// docsModes are the chains that the page explains.
func docsModes(f netrules.Family) []struct {
	title, where string
	chain        netrules.Chain
} {
	addr := docsAddr(f)
	return []struct {
		title, where string
		chain        netrules.Chain
	}{
		{
			"Mode redirect", "In the network namespace of each container that declares a port, here 6379, with our socket on port 61000:",
			netrules.Redirect(f, 61000, []netrules.Port{{Number: 6379, Comment: "web (3f2a5c0e9b1d) label connect.6379"}}),
		},
		{"Mode link", "In the daemon's own network namespace, with its listener on port 10000:", netrules.Link(f, 10000)},
		{"Mode host", fmt.Sprintf("In the host's network namespace, with the listener on %s:", netip.AddrPortFrom(addr, 10000)), netrules.Host(f, addr, 10000)},
	}
}

// docsAddr is the address of mode host.
func docsAddr(f netrules.Family) netip.Addr {
	if f == netrules.IPv6 {
		return netip.MustParseAddr("fd00:7::7")
	}
	return netip.MustParseAddr("169.254.7.7")
}

// TestDocs keeps docs/rules.md in step with the plan and with a live run.
func TestDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString(docsHead)
	four, six := docsModes(netrules.IPv4), docsModes(netrules.IPv6)
	for i, mode := range four {
		fmt.Fprintf(&b, "\n## %s\n", mode.title)
		docsPlan(&b, "IPv4", mode.where, mode.chain)
		docsPlan(&b, "IPv6", "", six[i].chain)
	}
	b.WriteString(docsNetlink(t, four[0].chain))
	b.WriteString(docsGuard(t))
	b.WriteString(`
## Live

A network namespace in which nothing is set up yet. The chain of mode redirect is
applied, and three connections are made to 127.0.0.1:6379. The rules are then, with
the packets that each has matched, which are the first of every connection:

`)
	live := map[Variant]string{}
	eachVariant(t, func(t *testing.T, r *Rules) { live[r.Variant()] = docsLive(t, r) })
	if diff := cmp.Diff(live[NFT], live[Legacy]); diff != "" {
		t.Errorf("the page is one for both packet filters: -nft +legacy:\n%s", diff)
	}
	b.WriteString(live[NFT])
	sameAsFile(t, "../../docs/rules.md", b.String())
}

// docsNetlink applies a chain by netlink and describes what is there then.
func docsNetlink(t *testing.T, chain netrules.Chain) string {
	t.Helper()
	lab := netlab.New(t)
	var rules nft.Rules
	if _, _, err := rules.Apply(t.Context(), lab.NS(), chain); err != nil {
		t.Fatal(err)
	}
	state, err := rules.Read(t.Context(), lab.NS(), chain.Family)
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, name := range []string{chain.Hook, chain.Name} {
		there, _ := state.Chain(name)
		for _, args := range there.Rules {
			lines.WriteString(state.RuleText(name, args) + "\n")
		}
	}
	return `
## Without iptables

Where the engine sets its own rules by nftables, where no iptables program is installed, or
with ` + "`--rules nft`" + `, the same chains are set by netlink, with no program at all:

- They are in tables of our own, ` + "`ip ambassadord` and `ip6 ambassadord`" + `, and nothing of ours in any
  other but these, the guard's and that of ` + "`refuse=early`" + `. Each has the chain at the hook, just
  before where iptables and others translate, and in it the jump alone.
- Both families are one transaction: whenever it is interrupted, all of it is there or none.
- What somebody has made of these tables, another hook, another rule, a dormant table, is set
  right again; they are removed whole. They stay when the daemon is killed, for the
  connections that are translated by them, and ` + "`rules remove`" + ` removes them.
- A third one, ` + "`inet ambassadord-pin`" + `, holds no rule that does anything: it keeps the kernel
  translating live connections in a container when somebody flushes the rules. It belongs to
  the daemon's process: nobody else can flush it, and it goes with that.
- Comments are cut after 128 bytes, so that what ` + "`nft list ruleset`" + ` prints can be loaded again.
- What iptables has of ours in nf_tables is removed by netlink as well. What is in the legacy
  filter takes its programs.
- It takes a kernel with nftables (nft_chain_nat, nft_redir, nft_nat, nft_fib), and neither the
  program nft nor iptables. The engine needs nft for its own rules where it has its backend
  nftables. A Debian 13 with Docker 29 and that backend needs no iptables for anything; the
  test ` + "`TestDebian13`" + ` has such a host, and on it ` + "`make demo`" + `, every mode and doctor. Debian 13's own
  package docker.io (26.1) brings iptables, and then rules are set by that.

Mode redirect, IPv4, as ` + "`rules show`" + ` prints it, which are commands of nft:

` + "```\n" + lines.String() + "```\n"
}

// docsGuard installs a guard and describes what is there then.
func docsGuard(t *testing.T) string {
	t.Helper()
	lab := netlab.New(t)
	ours := []netip.Addr{docsAddr(netrules.IPv4), docsAddr(netrules.IPv6)}
	bindings := []guard.Binding{{Port: 12, Addr: netip.MustParseAddr("172.17.0.2"), Owner: "web (3f2a5c0e9b1d)"}}
	g, err := guard.Install(lab.NS(), guard.TableName, ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Bind(bindings); err != nil {
		t.Fatal(err)
	}
	live, err := guard.Read(lab.NS())
	if err != nil || len(live) != 1 {
		t.Fatalf("read %d tables, %v; want one", len(live), err)
	}
	if diff := cmp.Diff(guard.Wanted(guard.TableName, ours, bindings).Lines(), live[0].Lines()); diff != "" {
		t.Errorf("wanted and live: -want +got:\n%s", diff)
	}
	return `
## The guard of modes host and link

An nftables table in the network namespace with the bridges, of which the daemon is
the owner: nobody else can change it, and it goes with the process. Mode link calls
it ambassadord_HOSTNAME. It says what is guarded, which address may come in by which
bridge port (as ip link numbers it) and whose that is, and what is dropped:

` + "```\n" + strings.Join(live[0].Lines(), "\n") + "\n```\n"
}

// docsPlan writes a chain, and for each rule why it is there.
func docsPlan(b *strings.Builder, family, where string, c netrules.Chain) {
	fmt.Fprintf(b, "\n%s.", family)
	if where != "" {
		fmt.Fprintf(b, " %s", where)
	}
	b.WriteString("\n\n```\n")
	nothing := netrules.State{Family: c.Family, Table: c.Table, Exists: true}
	state := nothing.After(netrules.Plan(c, nothing))
	var why strings.Builder
	for _, chain := range []string{c.Hook, c.Name} {
		there, _ := state.Chain(chain)
		for _, args := range there.Rules {
			b.WriteString(netrules.RuleText(chain, args) + "\n")
			fmt.Fprintf(&why, "- %s\n", netrules.Explain(chain, args).Why)
		}
	}
	fmt.Fprintf(b, "```\n\n%s", why.String())
}

// docsLive applies, connects, reads, removes.
func docsLive(t *testing.T, r *Rules) string {
	lab := netlab.New(t)
	chain := docsModes(netrules.IPv4)[0].chain
	serve(t, lab, "127.0.0.1:61000", "listener")
	mustApply(t, r, lab, chain)
	for range 3 {
		if line, _, _ := greeted(t, lab, "127.0.0.1:6379"); line != "listener 6379\n" {
			t.Errorf("a connection reached %q", line)
		}
	}
	state, err := r.ReadCounters(t.Context(), lab.NS(), netrules.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("```\n")
	for _, name := range []string{chain.Hook, chain.Name} {
		c, _ := state.Chain(name)
		for i, args := range c.Rules {
			fmt.Fprintf(&b, "[%d] %s\n", c.Counters[i].Packets, netrules.RuleText(name, args))
		}
	}
	b.WriteString("```\n\nOf the rule without a target: ")
	marker, _ := state.Chain(chain.Name)
	b.WriteString(netrules.Explain(chain.Name, marker.Rules[0]).Why + ".\n")
	mustRemove(t, r, lab, netrules.IPv4)
	mustDrop(t, r, lab, netrules.IPv4)
	if left := save(t, r, lab, netrules.IPv4); strings.Contains(left, "-A ") || r.Variant() == NFT && left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	b.WriteString("\nOnce removed, nothing is left. With the legacy packet filter the kernel keeps the empty table.\n")
	return b.String()
}
