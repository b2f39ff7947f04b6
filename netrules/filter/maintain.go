package filter

import (
	"context"
	"fmt"
	"strings"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Maintainer keeps chains of ours in one network namespace in order: it takes the mark of the
// rules, does nothing while that is what it was when they were found in order, else applies them
// and says what it found. One goroutine at a time uses it.
type Maintainer struct {
	rules    Rules
	made     string // the chains that were applied last; "" if there are none, or but a part of others
	inOrder  bool   // whether those were found in order
	verified uint64 // the mark then
}

// NewMaintainer keeps chains by rules.
func NewMaintainer(rules Rules) *Maintainer { return &Maintainer{rules: rules} }

// Kept is what Keep has found and done.
type Kept struct {
	Applied
	// Looked is false where the mark has shown that nothing was touched; then Applied is zero.
	Looked bool
	// Repaired says that the same chains had been there, and were changed by others.
	Repaired bool
}

// Keep makes ns, nil for the process's own, hold chains, as Rules.Apply does.
func (m *Maintainer) Keep(ctx context.Context, ns *netns.Namespace, chains ...netrules.Chain) (Kept, error) {
	wanted := textOf(chains)
	mark, err := m.rules.Mark(ctx, ns)
	if err != nil || m.inOrder && mark == m.verified && wanted == m.made {
		return Kept{}, err
	}
	applied, err := m.rules.Apply(ctx, ns, chains...)
	if err != nil {
		if m.inOrder = false; wanted != m.made {
			m.made = "" // a part of wanted may be there now
		}
		return Kept{Applied: applied}, err
	}
	kept := Kept{Applied: applied, Looked: true, Repaired: len(applied.Changes) > 0 && m.made == wanted}
	m.made, m.inOrder, m.verified = wanted, applied.Mark != 0, applied.Mark
	if applied.Settled() {
		m.inOrder, m.verified = true, mark
	}
	return kept, nil
}

// Expect says that chains were applied already, by the caller or a daemon before this one.
func (m *Maintainer) Expect(chains ...netrules.Chain) { m.made, m.inOrder = textOf(chains), false }

// Forget says that they are not there any more.
func (m *Maintainer) Forget() { m.made, m.inOrder = "", false }

// Untouched reports whether nobody has touched the rules since they were found in order.
func (m *Maintainer) Untouched(ctx context.Context, ns *netns.Namespace) bool {
	if !m.inOrder {
		return false
	}
	mark, err := m.rules.Mark(ctx, ns)
	return err == nil && mark == m.verified
}

func textOf(chains []netrules.Chain) string {
	var b strings.Builder
	for _, c := range chains {
		fmt.Fprintf(&b, "%s %s", c.Family, c)
	}
	return b.String()
}
