package netrules

import "slices"

// Sign says what becomes of a line of a [Diff].
type Sign string

// The signs.
const (
	Kept    Sign = " "
	Added   Sign = "+"
	Dropped Sign = "-"
)

// DiffLine is a rule of ours, or a chain of ours, before or after changes.
type DiffLine struct {
	Sign Sign
	Text string // in the state's notation; as `iptables -S` prints it: "-N CHAIN", "-A CHAIN ..."
}

// Diff returns what changes do to current as far as it is ours, as lines to add
// and to remove among those that stay: each chain with its rules, then the rules
// that lead to it. Rules that are not ours are never changed and never shown.
func Diff(current State, changes []Change) []DiffLine {
	return DiffLines(current.ourLines(), current.After(changes).ourLines())
}

// After returns what the table holds once changes are made, without counters. It
// does to a value what [RestoreScript] does to the kernel; deleting what is not
// there does nothing.
func (s State) After(changes []Change) State {
	s.Chains = slices.Clone(s.Chains)
	for i, c := range s.Chains {
		s.Chains[i] = ChainState{Name: c.Name, Policy: c.Policy, Rules: slices.Clone(c.Rules)}
	}
	for _, change := range changes {
		at := slices.IndexFunc(s.Chains, func(c ChainState) bool { return c.Name == change.Chain })
		if at < 0 {
			made := ChainState{Name: change.Chain}
			switch change.Op {
			case NewChain, Flush:
			case Append, Insert:
				made.Policy = "ACCEPT" // built in, in a table that was not there
			default:
				continue
			}
			at = len(s.Chains)
			s.Chains = append(s.Chains, made)
			s.Exists = true
		}
		chain := &s.Chains[at]
		switch change.Op {
		case NewChain, Flush:
			chain.Rules = nil
		case Append:
			chain.Rules = append(chain.Rules, change.Args)
		case Insert:
			chain.Rules = slices.Insert(chain.Rules, 0, change.Args)
		case Delete:
			same := func(args []string) bool { return slices.Equal(args, change.Args) }
			if i := slices.IndexFunc(chain.Rules, same); i >= 0 {
				chain.Rules = slices.Delete(chain.Rules, i, i+1)
			}
		case DeleteChain:
			s.Chains = slices.Delete(s.Chains, at, at+1)
		}
	}
	return s
}

// ourLines lists our chains with their rules, and after each the rules of others'
// chains that lead to it.
func (s State) ourLines() []string {
	var lines []string
	for _, c := range s.Chains {
		if !c.ours() {
			continue
		}
		lines = append(lines, s.chainText(c.Name))
		for _, args := range c.Rules {
			lines = append(lines, s.RuleText(c.Name, args))
		}
		for _, j := range s.Jumps(c.Name) {
			if from, _ := s.Chain(j.Chain); !from.ours() {
				lines = append(lines, s.RuleText(j.Chain, j.Args))
			}
		}
	}
	return lines
}

// maxCells bounds the memory of diff: who owns a namespace may have put any
// number of rules into a chain of ours.
const maxCells = 4 << 20

// DiffLines is the shortest way from before to after, by their longest common
// subsequence. Of more than two thousand lines each, all go and all come.
func DiffLines(before, after []string) []DiffLine {
	if len(before)*len(after) > maxCells {
		var lines []DiffLine
		for _, text := range before {
			lines = append(lines, DiffLine{Dropped, text})
		}
		for _, text := range after {
			lines = append(lines, DiffLine{Added, text})
		}
		return lines
	}
	// length[i][j] is that of before[i:] and after[j:].
	length := make([][]int, len(before)+1)
	for i := range length {
		length[i] = make([]int, len(after)+1)
	}
	for i := len(before) - 1; i >= 0; i-- {
		for j := len(after) - 1; j >= 0; j-- {
			if before[i] == after[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var lines []DiffLine
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case i < len(before) && j < len(after) && before[i] == after[j]:
			lines = append(lines, DiffLine{Kept, before[i]})
			i++
			j++
		case j == len(after) || i < len(before) && length[i+1][j] >= length[i][j+1]:
			lines = append(lines, DiffLine{Dropped, before[i]})
			i++
		default:
			lines = append(lines, DiffLine{Added, after[j]})
			j++
		}
	}
	return lines
}
