package netrules

import (
	"fmt"
	"slices"
	"strings"
)

// State is what one table of the kernel holds now, for one family.
type State struct {
	Family Family
	Table  string
	// Exists says whether the kernel has the table at all. iptables lists the
	// built-in chains of a table that is not there just the same, so the text
	// alone can prove that a table exists but never that it does not.
	Exists bool
	Chains []ChainState
	// Notation is how its rules are written for people.
	Notation Notation
	// MaxComment is the longest comment that a rule may have in there, in bytes, 0 being
	// [MaxComment].
	MaxComment int
	// Unlisted says why the table could not be listed as a whole, nil if it could. Then
	// Chains are those of ours, and of others' those that lead there, with no rule besides.
	Unlisted error
}

// ChainState is one chain of a State.
type ChainState struct {
	Name     string
	Policy   string     // "ACCEPT" and so on for a built-in chain, "" for any other
	Rules    [][]string // the arguments of each rule, unquoted, without "-A NAME"
	Counters []Counters // of each rule; empty if the text had none
	Handles  []uint64   // how nftables numbers each rule; empty if a rule is told by its arguments
}

// Counters is how much a rule has matched since it was made.
type Counters struct {
	Packets, Bytes uint64
}

// JumpState is a rule that leads to another chain.
type JumpState struct {
	Chain  string   // where the rule stands
	Args   []string // the rule
	Handle uint64   // its number, 0 if it is told by its arguments
}

// ParseState reads the output of `iptables -t TABLE -S` or, with counters, of
// `iptables-save -c -t TABLE` (or ip6tables'). Exists is set if the text shows
// something a missing table could not have.
func ParseState(f Family, table, text string) (State, error) {
	s := State{Family: f, Table: table}
	index := map[string]int{}
	for rest := text; rest != ""; {
		var line string
		var err error
		if line, rest, err = cutLine(rest); err != nil {
			return State{}, fmt.Errorf("parse rules of %s table %s: %w", f, table, err)
		}
		args := splitArgs(line)
		if len(args) == 0 || strings.HasPrefix(args[0], "#") {
			continue
		}
		if !s.parseLine(args, index) {
			return State{}, fmt.Errorf("parse rules of %s table %s: unexpected line %q", f, table, line)
		}
	}
	return s, nil
}

// parseLine adds what one line says and reports whether it could. index has the
// place of each chain.
func (s *State) parseLine(args []string, index map[string]int) bool {
	switch op := args[0]; {
	case len(args) == 1:
		return op == "*"+s.Table || op == "COMMIT"
	case op == "-P" && len(args) >= 3:
		return s.parseChain(args[1], args[2], index)
	case op == "-N":
		return s.parseChain(args[1], "", index)
	case strings.HasPrefix(op, ":") && len(op) > 1:
		return s.parseChain(op[1:], strings.TrimPrefix(args[1], "-"), index)
	}
	var counters *Counters
	if strings.HasPrefix(args[0], "[") {
		counters = new(Counters)
		if _, err := fmt.Sscanf(args[0], "[%d:%d]", &counters.Packets, &counters.Bytes); err != nil {
			return false
		}
		args = args[1:]
	}
	if len(args) < 2 || args[0] != "-A" {
		return false
	}
	at, known := index[args[1]]
	if !known {
		return false
	}
	chain := &s.Chains[at]
	if counters != nil {
		// Of the rules before, too, or none could be told whose they are.
		if len(chain.Counters) != len(chain.Rules) {
			return false
		}
		chain.Counters = append(chain.Counters, *counters)
	}
	chain.Rules = append(chain.Rules, args[2:])
	s.Exists = true
	return true
}

// parseChain adds a chain; one without a policy is nobody's built-in one.
func (s *State) parseChain(name, policy string, index map[string]int) bool {
	if _, known := index[name]; known {
		return false
	}
	index[name] = len(s.Chains)
	s.Chains = append(s.Chains, ChainState{Name: name, Policy: policy})
	s.Exists = s.Exists || policy != "ACCEPT"
	return true
}

// Chain returns the named chain and whether it is there.
func (s State) Chain(name string) (ChainState, bool) {
	for _, c := range s.Chains {
		if c.Name == name {
			return c, true
		}
	}
	return ChainState{}, false
}

// Ours returns the names of the chains that are ours, in the table's order.
func (s State) Ours() []string {
	var names []string
	for _, c := range s.Chains {
		if c.ours() {
			names = append(names, c.Name)
		}
	}
	return names
}

// Jumps returns the rules, of any chain, that jump or go to the named chain.
func (s State) Jumps(name string) []JumpState {
	return s.jumpsTo(func(target string) bool { return target == name })[name]
}

// jumpsTo returns the rules that lead to chains which want names, by their names. A
// process with NET_ADMIN in there may have made thousands of either, so it looks through them once.
func (s State) jumpsTo(want func(name string) bool) map[string][]JumpState {
	jumps := map[string][]JumpState{}
	for _, c := range s.Chains {
		for i, args := range c.Rules {
			target := Target(args)
			if !want(target) {
				continue
			}
			j := JumpState{Chain: c.Name, Args: args}
			if i < len(c.Handles) {
				j.Handle = c.Handles[i]
			}
			jumps[target] = append(jumps[target], j)
		}
	}
	return jumps
}

// jumpsToOurs are the rules that lead to chains with our prefix, by those.
func (s State) jumpsToOurs() map[string][]JumpState {
	return s.jumpsTo(func(name string) bool { return strings.HasPrefix(name, ChainPrefix) })
}

// MadeTable reports whether one of our chains carries the marker that says the
// table was made by us.
func (s State) MadeTable() bool {
	return slices.ContainsFunc(s.Chains, func(c ChainState) bool { return c.ours() && c.marked() })
}

func (c ChainState) ours() bool {
	return c.Policy == "" && strings.HasPrefix(c.Name, ChainPrefix)
}

func (c ChainState) marked() bool {
	return slices.ContainsFunc(c.Rules, func(args []string) bool { return slices.Equal(args, marker().Args()) })
}

func marker() Rule { return Rule{Comment: TableMarker} }

// Target returns where a rule leads, a chain or a verdict, or "". The flag's value is what follows it;
// a comment that looks like a flag is a value itself and does not count.
func Target(args []string) string {
	for i := 0; i+1 < len(args); i++ {
		if args[i] == "--comment" {
			i++
		} else if isTargetFlag(args[i]) {
			return args[i+1]
		}
	}
	return ""
}

// cutLine cuts the first line off text. A line break between quotes is part of
// the line: comments by others may hold one.
func cutLine(text string) (line, rest string, err error) {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '\n' && !quoted:
			return text[:i], text[i+1:], nil
		}
	}
	if quoted {
		return "", "", fmt.Errorf("quote left open in %.80q", text)
	}
	return text, "", nil
}

// splitArgs splits a line of iptables-save output into arguments and unquotes them.
func splitArgs(line string) []string {
	var args []string
	var arg strings.Builder
	quoted, open := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quoted && c == '\\' && i+1 < len(line):
			i++
			arg.WriteByte(line[i])
		case c == '"':
			quoted, open = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if open {
				args = append(args, arg.String())
				arg.Reset()
				open = false
			}
		default:
			arg.WriteByte(c)
			open = true
		}
	}
	if open {
		args = append(args, arg.String())
	}
	return args
}
