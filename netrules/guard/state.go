package guard

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// TableName is the table of a daemon on the host; those of others start with it.
const TableName = "ambassadord"

// chainName is the one chain of a table.
const chainName = "prerouting"

// State is what a guard's table holds, or should.
type State struct {
	Name     string
	Ours     []netip.Addr
	Bindings []Binding
	Rules    []Rule
}

// Rule is one rule of the table.
type Rule struct {
	What           string // what it drops
	Packets, Bytes uint64
}

// Wanted is the State that Install and Bind bring about.
func Wanted(name string, ours []netip.Addr, bindings []Binding) State {
	s := State{Name: name, Ours: slices.Clone(ours), Bindings: sorted(bindings)}
	slices.SortFunc(s.Ours, netip.Addr.Compare)
	unnamed := sets{&nftables.Set{}, &nftables.Set{}, &nftables.Set{}}
	for _, r := range rules(unnamed, unnamed) {
		s.Rules = append(s.Rules, ruleOf(r))
	}
	return s
}

// Lines describe the table to people, without its counters.
func (s State) Lines() []string {
	if s.Name == "" {
		return nil
	}
	lines := []string{"table bridge " + s.Name}
	for _, a := range s.Ours {
		lines = append(lines, "guarded "+a.String())
	}
	for _, b := range s.Bindings {
		lines = append(lines, b.String())
	}
	for _, r := range s.Rules {
		lines = append(lines, r.String())
	}
	return lines
}

// String is a line of Lines.
func (r Rule) String() string { return "drop " + r.What }

// String is a line of Lines. The port is as ip-link(8) numbers it.
func (b Binding) String() string {
	text := fmt.Sprintf("bound %s to port %d", b.Addr, b.Port)
	if b.Owner != "" {
		text += ": " + b.Owner
	}
	return text
}

// Read returns the tables of all guards in a namespace, nil being the process's own.
// A kernel without nftables has none.
func Read(ns *netns.Namespace) ([]State, error) {
	var conn *nftables.Conn
	err := ns.Do(func() (err error) { // the socket stays in the namespace that it was made in
		conn, err = nftables.New(nftables.AsLasting())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }()
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return nil, fmt.Errorf("list bridge tables: %w", err)
	}
	var states []State
	for _, table := range tables {
		if table.Name != TableName && !strings.HasPrefix(table.Name, TableName+"_") {
			continue
		}
		s, err := read(conn, table)
		if err != nil {
			return states, fmt.Errorf("read table bridge %s: %w", table.Name, err)
		}
		states = append(states, s)
	}
	return states, nil
}

func read(conn *nftables.Conn, table *nftables.Table) (State, error) {
	s := State{Name: table.Name}
	var bindings []Binding
	for _, suffix := range []string{"4", "6"} {
		ours, err := conn.GetSetElements(&nftables.Set{Table: table, Name: "ours" + suffix})
		if err != nil {
			return s, err
		}
		for _, e := range ours {
			if addr, ok := netip.AddrFromSlice(e.Key); ok {
				s.Ours = append(s.Ours, addr)
			}
		}
		bound, err := conn.GetSetElements(&nftables.Set{Table: table, Name: "bound" + suffix})
		if err != nil {
			return s, err
		}
		for _, e := range bound {
			if len(e.Key) < portSize {
				continue
			}
			if addr, ok := netip.AddrFromSlice(e.Key[portSize:]); ok {
				bindings = append(bindings, Binding{Port: int(binary.NativeEndian.Uint32(e.Key)), Addr: addr, Owner: e.Comment})
			}
		}
	}
	slices.SortFunc(s.Ours, netip.Addr.Compare)
	s.Bindings = sorted(bindings)
	rules, err := conn.GetRules(table, &nftables.Chain{Name: chainName})
	for _, r := range rules {
		s.Rules = append(s.Rules, ruleOf(r))
	}
	return s, err
}

// portSize is how much of a binding's key its port takes.
const portSize = 4

// ruleOf reads what drop writes.
func ruleOf(r *nftables.Rule) Rule {
	comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	rule := Rule{What: strings.TrimPrefix(comment, commentPrefix)}
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			rule.Packets, rule.Bytes = c.Packets, c.Bytes
		}
	}
	return rule
}

// sorted is bindings in order, each address and port once.
func sorted(bindings []Binding) []Binding {
	bindings = slices.Clone(bindings)
	slices.SortStableFunc(bindings, func(a, b Binding) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port)) })
	return slices.CompactFunc(bindings, func(a, b Binding) bool { return a.Addr == b.Addr && a.Port == b.Port })
}
