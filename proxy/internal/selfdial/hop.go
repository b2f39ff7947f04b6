package selfdial

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Hop is a connection that we carry and that may be part of a loop: what we dial for it has
// come back to a listener of ours, or it is itself a connection that we have dialled. Such a
// one has both addresses of what was dialled, and there is but one such connection in a
// network namespace. A connection that comes by one listener for the second time would go on
// for ever.
// Most connections have no hop.
type Hop struct {
	by        *Listener             // that accepted it
	Way       fmt.Stringer          // whose it is and where it goes, in the words of a log; nil until it is known
	source    uint64                // keys of its addresses; 0 where it cannot be ours
	dialledAt uint64                // before any rule led it elsewhere
	before    atomic.Pointer[Hop]   // the connection of ours that it is, once that is known
	looped    atomic.Pointer[cause] // why what came back was reset

	// What follows is of the connection to an endpoint.
	flows         *flows // where it is found; nil while it is not noted
	local, remote uint64 // keys
	next          *Hop   // another one from the same address
}

// AwaitParent gives the goroutine that has dialled it the time to note that.
func (h *Hop) AwaitParent(ctx context.Context, t *Tracker) {
	if h != nil && h.parent(t) == nil {
		t.flowsOf(h.by).await(ctx, h.dialledAt)
	}
}

// parent is the connection of ours that h is; nil if it is another process's. The goroutine that
// has dialled it may not have noted that yet when it is accepted, so it is asked again.
func (h *Hop) parent(t *Tracker) *Hop {
	if b := h.before.Load(); b != nil || h.source == 0 {
		return b
	}
	b := t.flowsOf(h.by).find(h.source, h.dialledAt)
	if b != nil {
		h.before.Store(b)
	}
	return b
}

// CameBack says why a connection is to be reset: it came by its listener before, and which
// way it took since.
func (h *Hop) CameBack(t *Tracker) error {
	if h == nil {
		return nil
	}
	for b := h.parent(t); b != nil; b = b.parent(t) {
		if b.by == h.by {
			return h.loop(t)
		}
	}
	return nil
}

// Tell tells those of which the connection is a part that it was a loop.
func (h *Hop) Tell(t *Tracker, err error) {
	for first := h; ; {
		for b := first.parent(t); b != nil; b = b.parent(t) {
			b.looped.CompareAndSwap(nil, &cause{err})
			first = b
		}
		if first.source == 0 {
			return
		}
		t.flowsOf(first.by).resetEarly(first.source, first.dialledAt, err)
		if first.parent(t) == nil { // or it was noted in between
			return
		}
	}
}

// loop says which way the connection took until it came back.
func (h *Hop) loop(t *Tracker) error {
	var steps []string
	for b := h.parent(t); b != nil; b = b.parent(t) {
		steps = append(steps, b.step())
		if b.by == h.by {
			break
		}
	}
	slices.Reverse(steps)
	return hint.Errorf(loopFix, "what was dialled for a connection came back: %s → our own socket at %s",
		strings.Join(steps, " → "), h.by.Addr)
}

func (h *Hop) step() string { return step(h.by, h.Way) }

// step says what came by a listener, and where to.
func step(by *Listener, w fmt.Stringer) string {
	if w == nil {
		return by.Addr.String()
	}
	return w.String()
}

const loopFix = "name another target: this one leads back to ourselves"

// Left notes that the connection to the endpoint is about to be closed.
func (h *Hop) Left() {
	if h != nil && h.flows != nil {
		h.flows.remove(h)
		h.flows = nil
	}
}

// cause is why a connection has ended.
type cause struct{ err error }
