package filter

import (
	"context"
	"errors"
	"testing"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// scripted are Rules whose Apply gives what is next in a script.
type scripted struct {
	Rules
	mark    uint64
	applied Applied
	err     error
}

func (s *scripted) Mark(context.Context, *netns.Namespace) (uint64, error) { return s.mark, nil }

func (s *scripted) Apply(context.Context, *netns.Namespace, ...netrules.Chain) (Applied, error) {
	return s.applied, s.err
}

// TestRepairedIsWhatOthersHaveChanged: what the maintainer changes because other chains are wanted,
// or because it failed half-way when they were, no stranger has changed.
func TestRepairedIsWhatOthersHaveChanged(t *testing.T) {
	changes := Applied{Changes: make([]netrules.Change, 1)}
	failure := errors.New("half of it is done")
	one, two := netrules.Link(netrules.IPv4, 1), netrules.Link(netrules.IPv4, 2)
	type step struct {
		chain    netrules.Chain
		err      error
		repaired bool
	}
	for name, steps := range map[string][]step{
		"the first":                    {{one, nil, false}},
		"others have changed it":       {{one, nil, false}, {one, nil, true}},
		"others are wanted":            {{one, nil, false}, {two, nil, false}, {two, nil, true}},
		"the repair has failed":        {{one, nil, false}, {one, failure, false}, {one, nil, true}},
		"the first has failed":         {{one, failure, false}, {one, nil, false}},
		"others have failed":           {{one, nil, false}, {two, failure, false}, {two, nil, false}},
		"others have failed, and went": {{one, nil, false}, {two, failure, false}, {one, nil, false}},
	} {
		rules := &scripted{applied: changes}
		m := NewMaintainer(rules)
		for i, s := range steps {
			rules.mark++
			rules.err = s.err
			kept, err := m.Keep(t.Context(), nil, s.chain)
			if !errors.Is(err, s.err) || kept.Repaired != s.repaired {
				t.Errorf("%s: step %d: repaired %t, %v; want %t, %v", name, i, kept.Repaired, err, s.repaired, s.err)
			}
		}
	}
}
