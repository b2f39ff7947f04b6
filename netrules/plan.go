package netrules

import (
	"slices"
	"strings"
)

// Op is what a Change does, as iptables spells it.
type Op string

// The operations.
const (
	NewChain    Op = "-N"
	Flush       Op = "-F"
	Append      Op = "-A"
	Insert      Op = "-I" // as the first rule
	Delete      Op = "-D"
	DeleteChain Op = "-X"
)

// Change is one step from the kernel's state to the desired one.
type Change struct {
	Family Family
	Table  string
	Op     Op
	Chain  string
	Args   []string // the rule, for Append, Insert and Delete
	// Handle is how nftables numbers the rule to Delete, where that is not told by Args: a
	// rule that iptables cannot print. 0 for all others.
	Handle uint64
}

// String returns the change as the command that would make it.
func (c Change) String() string {
	return joinArgs([]string{c.Family.Command(), "-t", c.Table}) + " " + c.line()
}

func (c Change) line() string {
	return joinArgs(append([]string{string(c.Op), c.Chain}, c.Args...))
}

// Plan returns what has to change in current for desired to hold, in order: the
// chain is filled before anything leads to it. It is empty if nothing has to.
//
// A chain that differs is refilled as a whole. Exactly one jump stays; others to
// the same chain, from wherever, go, and so do those that the same hook has to
// other chains of ours: they are a dead daemon's, and would take connections to
// where nobody listens any more. If the table does not exist, the chain gets
// the [TableMarker] as its first rule, and a chain that has it keeps it.
func Plan(desired Chain, current State) []Change {
	change := func(op Op, chain string, args []string) Change {
		return Change{Family: desired.Family, Table: desired.Table, Op: op, Chain: chain, Args: args}
	}
	have, found := current.Chain(desired.Name)
	rules := current.fit(desired.Rules)
	if !current.Exists || found && have.marked() {
		rules = append([]Rule{marker()}, rules...)
	}
	want := make([][]string, len(rules))
	for i, r := range rules {
		want[i] = r.Args()
	}

	var changes []Change
	if !found || !slices.EqualFunc(want, have.Rules, slices.Equal) {
		op := Flush
		if !found {
			op = NewChain
		}
		changes = append(changes, change(op, desired.Name, nil))
		for _, args := range want {
			changes = append(changes, change(Append, desired.Name, args))
		}
	}

	unhook := func(j JumpState) Change {
		c := change(Delete, j.Chain, j.Args)
		c.Handle = j.Handle
		return c
	}
	jump := desired.Jump().Args()
	jumps := current.jumpsToOurs()
	hooked := false
	var extra []Change
	for _, j := range jumps[desired.Name] {
		switch {
		case j.Chain == desired.Name:
			// A jump of our chain to itself went with the refill above.
		case !hooked && j.Chain == desired.Hook && slices.Equal(j.Args, jump):
			hooked = true
		default:
			extra = append(extra, unhook(j))
		}
	}
	for _, name := range current.Ours() {
		if name == desired.Name {
			continue
		}
		for _, j := range jumps[name] {
			if j.Chain == desired.Hook {
				extra = append(extra, unhook(j))
			}
		}
	}
	// Deleting takes the first rule that equals the arguments, and inserting puts
	// one first. So old jumps go before the new one comes, lest it be taken.
	changes = append(changes, extra...)
	if !hooked {
		changes = append(changes, change(Insert, desired.Hook, jump))
	}
	return changes
}

// PlanUnhook returns what takes every jump to a chain of ours out of current and
// leaves the chains themselves: no new connection comes our way, while those
// already translated go on. It is the first part of [PlanRemove].
func PlanUnhook(current State) []Change {
	var changes []Change
	ours, jumps := current.Ours(), current.jumpsToOurs()
	is := map[string]bool{}
	for _, name := range ours {
		is[name] = true
	}
	for _, name := range ours {
		for _, j := range jumps[name] {
			if !is[j.Chain] { // the others go with their chain's rules
				c := removal(current, Delete, j.Chain, j.Args)
				c.Handle = j.Handle
				changes = append(changes, c)
			}
		}
	}
	return changes
}

// PlanRemove returns what takes every chain of ours, and every jump to one, out
// of current, and nothing else. All jumps go before any chain does.
func PlanRemove(current State) []Change {
	var flush, drop []Change
	for _, name := range current.Ours() {
		flush = append(flush, removal(current, Flush, name, nil))
		drop = append(drop, removal(current, DeleteChain, name, nil))
	}
	return slices.Concat(PlanUnhook(current), flush, drop)
}

func removal(current State, op Op, chain string, args []string) Change {
	return Change{Family: current.Family, Table: current.Table, Op: op, Chain: chain, Args: args}
}

// RestoreScript returns changes to one table as input for
// `iptables-restore --noflush`, which makes them in one transaction: nobody sees
// a chain half filled. It leaves out changes by a Handle, for which it knows no words.
func RestoreScript(table string, changes []Change) string {
	var b strings.Builder
	b.WriteString("*" + table + "\n")
	for _, c := range changes {
		if c.Handle != 0 {
			continue
		}
		switch c.Op {
		case NewChain, Flush:
			// With --noflush this line makes the chain, or empties it if it is there.
			b.WriteString(":" + c.Chain + " - [0:0]\n")
		default:
			b.WriteString(c.line() + "\n")
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
