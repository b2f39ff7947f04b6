//go:build integration

package iptables

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

var (
	seed  = flag.Uint64("seed", 0, "of TestAnyStartingState; 0 for another one each time")
	cases = flag.Int("cases", 12, "of TestAnyStartingState, for each variant and family")
)

// TestAnyStartingState: whatever rules there are, ours half applied, doubled or a
// dead daemon's, and others' before, between and after, and wherever we are
// interrupted: an Apply reaches the plan, a Remove takes all of ours away, and
// what is not ours stays as it is, in its order.
func TestAnyStartingState(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d", *seed)
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			for i := range *cases {
				t.Run(fmt.Sprintf("%s-%d", f, i), func(t *testing.T) {
					stream := uint64(i)<<8 | uint64(f)
					if r.Variant() == Legacy {
						stream |= 1 << 63
					}
					p := &property{r: r, f: f, lab: netlab.New(t), rand: rand.New(rand.NewPCG(*seed, stream))}
					p.run(t)
				})
			}
		}
	})
}

// property is one case.
type property struct {
	r    *Rules
	f    netrules.Family
	lab  *netlab.Lab
	rand *rand.Rand
}

func (p *property) run(t *testing.T) {
	start := p.start()
	p.lab.Run(t, start, program(p.r, p.f)+"-restore")
	if p.rand.IntN(3) == 0 { // a dead daemon used the other packet filter
		beside, err := New(t.Context(), Prefer(other(p.r.Variant())))
		if err != nil {
			t.Fatal(err)
		}
		// Its own Apply would take what is in this one away.
		c := redirect(p.f, 80)
		script := netrules.RestoreScript(c.Table, netrules.Plan(c, netrules.State{Family: p.f, Table: c.Table}))
		p.lab.Run(t, script, program(beside, p.f)+"-restore", "--noflush")
	}
	want := foreignText(save(t, p.r, p.lab, p.f))
	check := func(after string) {
		t.Helper()
		if diff := cmp.Diff(want, foreignText(save(t, p.r, p.lab, p.f))); diff != "" {
			t.Fatalf("%s: what is not ours: -before +after:\n%s\nstart:\n%s", after, diff, start)
		}
	}
	chain := p.desired()
	for range p.rand.IntN(4) {
		check(p.interrupted(t, chain))
	}

	mustApply(t, p.r, p.lab, chain)
	check("apply")
	state := p.read(t)
	if changes := netrules.Plan(chain, state); len(changes) > 0 {
		t.Fatalf("applied, and yet to change: %v\nstart:\n%s", changes, start)
	}
	if jumps := state.Jumps(chain.Name); len(jumps) != 1 || jumps[0].Chain != chain.Hook {
		t.Fatalf("jumps: %v\nstart:\n%s", jumps, start)
	}
	if changes := mustApply(t, p.r, p.lab, chain); len(changes) > 0 {
		t.Errorf("applied twice: %v", changes)
	}
	if elsewhere, err := p.r.Elsewhere(p.lab.NS(), p.f); err != nil || len(elsewhere) > 0 {
		t.Errorf("in both packet filters: %v, %v", elsewhere, err)
	}

	for range p.rand.IntN(3) {
		check(p.interrupted(t, chain))
	}
	if removed := mustRemove(t, p.r, p.lab, p.f); removed.MadeTable {
		mustDrop(t, p.r, p.lab, p.f)
	}
	check("remove")
	if ours := p.read(t).Ours(); len(ours) > 0 {
		t.Errorf("left behind: %v", ours)
	}
}

func (p *property) read(t *testing.T) netrules.State {
	t.Helper()
	state, err := p.r.Read(t.Context(), p.lab.NS(), p.f)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func (p *property) desired() netrules.Chain {
	switch p.rand.IntN(6) {
	case 0:
		return netrules.Link(p.f, listenPort)
	case 1:
		return netrules.Host(p.f, netip.MustParseAddr(hostAddrs[p.f]), listenPort)
	}
	var ports []uint16
	for range p.rand.IntN(5) {
		ports = append(ports, uint16(1+p.rand.IntN(65535)))
	}
	return redirect(p.f, ports...)
}

// interrupted starts something and kills it on the way: the outcome is all or
// nothing. It returns what it did.
func (p *property) interrupted(t *testing.T, chain netrules.Chain) string {
	t.Helper()
	before := p.read(t)
	whole := map[string][]netrules.Change{
		"apply":  netrules.Plan(chain, before),
		"remove": netrules.PlanRemove(before),
		"unhook": netrules.PlanUnhook(before),
	}
	does := map[string]func(context.Context) error{
		"apply":  func(ctx context.Context) error { _, err := p.r.Apply(ctx, p.lab.NS(), chain); return err },
		"remove": func(ctx context.Context) error { _, err := p.r.Remove(ctx, p.lab.NS(), p.f); return err },
		"unhook": func(ctx context.Context) error { _, err := p.r.Unhook(ctx, p.lab.NS(), p.f); return err },
	}
	what := []string{"apply", "remove", "unhook"}[p.rand.IntN(3)]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tool, err := p.r.tool(p.f)
	if err != nil {
		t.Fatal(err)
	}
	crash := errors.New("a crash")
	if p.rand.IntN(2) == 0 {
		// The program dies, at any moment.
		timer := time.AfterFunc(time.Duration(p.rand.IntN(15_000))*time.Microsecond, cancel)
		defer timer.Stop()
	} else {
		// We die, before one of the programs.
		steps := p.rand.IntN(3)
		tool.before = func(string) error {
			if steps--; steps < 0 {
				return crash
			}
			return nil
		}
		defer func() { tool.before = nil }()
	}
	err = does[what](ctx)
	if err != nil && !errors.Is(err, crash) && !errors.Is(err, context.Canceled) {
		t.Fatalf("%s: %v", what, err)
	}

	after := p.read(t)
	allowed := []string{stateText(before), stateText(before.After(whole[what]))}
	if what == "unhook" { // jump by jump
		for i := range whole[what] {
			allowed = append(allowed, stateText(before.After(whole[what][:i])))
		}
	}
	if !slices.Contains(allowed, stateText(after)) {
		t.Fatalf("%s, interrupted (%v), is half done:\n%s\nbefore:\n%s", what, err, stateText(after), allowed[0])
	}
	if err == nil && stateText(after) != allowed[1] {
		t.Fatalf("%s did not do what was planned:\n%s\nwanted:\n%s", what, stateText(after), allowed[1])
	}
	return what + ", interrupted"
}

// stateText has the chains sorted, for where a new one is listed is the kernel's
// choice, and without built-in ones that are empty, which a missing table lacks.
func stateText(s netrules.State) string {
	chains := slices.SortedFunc(slices.Values(s.Chains), func(a, b netrules.ChainState) int {
		return strings.Compare(a.Name, b.Name)
	})
	var b strings.Builder
	for _, c := range chains {
		if c.Policy == "ACCEPT" && len(c.Rules) == 0 {
			continue
		}
		fmt.Fprintf(&b, ":%s %s\n", c.Name, c.Policy)
		for _, args := range c.Rules {
			b.WriteString(netrules.RuleText(c.Name, args) + "\n")
		}
	}
	return b.String()
}

// start is the rules there are before us, for iptables-restore.
func (p *property) start() string {
	addr := map[netrules.Family]string{netrules.IPv4: "127.0.0.11", netrules.IPv6: "fd00::b"}[p.f]
	prefix := addr + map[netrules.Family]string{netrules.IPv4: "/32", netrules.IPv6: "/128"}[p.f]
	chains := []string{}
	rules := map[string][]string{} // of each chain, shuffled below
	add := func(chain, rule string) { rules[chain] = append(rules[chain], rule) }
	builtin := []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
	anywhere := func() string { return builtin[p.rand.IntN(len(builtin))] }

	for i := range p.rand.IntN(6) {
		add(anywhere(), []string{
			fmt.Sprintf("-p tcp -m tcp --dport %d -j RETURN", i+1),
			`-m comment --comment "it's \"mine\", not -j AMBASSADORD" -j ACCEPT`,
			`-m comment --comment ambassadord -j RETURN`,
			fmt.Sprintf("-s %s -p udp -m udp --sport 7:9 -j ACCEPT", prefix),
		}[p.rand.IntN(4)])
	}
	if p.rand.IntN(2) == 0 {
		chains = append(chains, "MINE")
		add([]string{"OUTPUT", "PREROUTING"}[p.rand.IntN(2)], "-j MINE") // where REDIRECT may be
		add("MINE", "-p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80")
		add("MINE", "-j RETURN")
	}
	if p.rand.IntN(2) == 0 { // as Docker does it in a user network's container
		chains = append(chains, "DOCKER_OUTPUT", "DOCKER_POSTROUTING")
		add("OUTPUT", "-d "+prefix+" -j DOCKER_OUTPUT")
		add("POSTROUTING", "-d "+prefix+" -j DOCKER_POSTROUTING")
		to := addr
		if p.f == netrules.IPv6 {
			to = "[" + addr + "]"
		}
		add("DOCKER_OUTPUT", "-d "+prefix+" -p tcp -m tcp --dport 53 -j DNAT --to-destination "+to+":40053")
		add("DOCKER_POSTROUTING", "-s "+prefix+" -p tcp -m tcp --sport 40053 -j SNAT --to-source :53")
	}
	for _, name := range []string{"AMBASSADORD", "AMBASSADORD_OLD", "AMBASSADORD_HOST"} {
		if p.rand.IntN(2) == 0 {
			continue
		}
		chains = append(chains, name)
		for range p.rand.IntN(4) {
			add([]string{"OUTPUT", "PREROUTING"}[p.rand.IntN(2)], []string{
				"-m comment --comment ambassadord -j " + name,
				"-j " + name,
				"-p tcp -g " + name,
			}[p.rand.IntN(3)])
		}
		for range p.rand.IntN(5) {
			add(name, []string{
				`-m comment --comment "ambassadord: this nat table was made by us"`,
				"-d " + prefix + ` -m comment --comment "ambassadord: leave the DNS of Docker alone" -j RETURN`,
				"-p tcp -m tcp --dport 6379 -m comment --comment \"ambassadord: web's\" -j REDIRECT --to-ports 15001",
				"-p tcp -m tcp --dport 6379 --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment \"ambassadord: web's\" -j REDIRECT --to-ports 15001",
				"-j ACCEPT",
			}[p.rand.IntN(5)])
		}
	}
	if p.rand.IntN(8) == 0 && len(chains) == 0 && len(rules) == 0 {
		return "" // no table at all
	}

	var b strings.Builder
	b.WriteString("*nat\n")
	for _, name := range chains {
		b.WriteString(":" + name + " - [0:0]\n")
	}
	for _, name := range slices.Concat(builtin, chains) {
		p.rand.Shuffle(len(rules[name]), func(i, j int) {
			rules[name][i], rules[name][j] = rules[name][j], rules[name][i]
		})
		for _, rule := range rules[name] {
			b.WriteString("-A " + name + " " + rule + "\n")
		}
	}
	b.WriteString("COMMIT\n*filter\n:OTHER - [0:0]\n-A INPUT -j OTHER\nCOMMIT\n")
	return b.String()
}

var (
	quotedText = regexp.MustCompile(`"(\\.|[^"\\])*"`)
	ourLine    = regexp.MustCompile(`^(:AMBASSADORD|-A AMBASSADORD)|^-A .* -[jg] AMBASSADORD`)
	bareTable  = regexp.MustCompile(`\*nat\n(:[A-Z]+ ACCEPT \[0:0\]\n)*COMMIT\n`)
)

// foreignText is what iptables-save printed, without our lines. An empty table is
// none: TestRemoveRestoresExactly has that.
func foreignText(saved string) string {
	var b strings.Builder
	for line := range strings.Lines(saved) {
		if !ourLine.MatchString(quotedText.ReplaceAllString(line, `""`)) {
			b.WriteString(line)
		}
	}
	return bareTable.ReplaceAllString(b.String(), "")
}
