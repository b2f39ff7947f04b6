// Package hold says for how long a connection is held whose client the engine has to name first:
// while the engine is away (it restarts, it hangs, its socket is gone) nothing that it has said is
// current, and an address may be another container's by now.
package hold

import (
	"context"
	"fmt"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/settings"
)

// Engine is what has to be known of the container engine: *dockerd.Watcher.
type Engine interface {
	Away() error                 // why nothing that it has said is current
	Changed() <-chan struct{}    // closed when Away or Snapshot may be others
	Snapshot() *dockerd.Snapshot // nil before the first
}

// Hold is for how long connections are held.
type Hold struct {
	Engine   Engine // nil where there is none
	Clients  *identity.Latest
	Settings *settings.Current
}

// Away is why nothing that the engine has said is current; nil if it is, or there is none.
func (h *Hold) Away() error {
	if h.Engine == nil {
		return nil
	}
	return h.Engine.Away()
}

// Unconfirmed is of how many containers the engine has yet to say what has become of them.
func (h *Hold) Unconfirmed() int {
	if h.Engine == nil {
		return 0
	}
	if snapshot := h.Engine.Snapshot(); snapshot != nil {
		return snapshot.Unconfirmed()
	}
	return 0
}

// Current reports whether the engine has said what is known of c since it was last lost.
func (h *Hold) Current(c *dockerd.Container) bool {
	if h.Engine == nil {
		return true
	}
	snapshot := h.Engine.Snapshot()
	return snapshot == nil || snapshot.Current(c)
}

// Changed is closed when Away or Unconfirmed may be others. A caller that waits for that asks for
// the channel first. It is nil where there is no engine.
func (h *Hold) Changed() <-chan struct{} {
	if h.Engine == nil {
		return nil
	}
	return h.Engine.Changed()
}

// Bound is how long a connection to port is held whose client the engine has to name first: as
// long as the option timeout of any container that declares the port allows, which bounds the
// connection likewise once its client is known.
func (h *Hold) Bound(port uint16) time.Duration {
	bound, declared := time.Duration(0), false
	if table := h.Clients.Load(); table != nil {
		for b := range table.Declared(port) {
			bound, declared = max(bound, b.Options.Timeout), true
		}
	}
	if !declared {
		defaults, _ := option.Merge(h.Settings.Load().Config.Defaults, nil) // a mistake in it was refused
		bound = defaults.Timeout
	}
	return bound
}

// Await returns when what the engine has said is current. The error says that it is not within
// bound.
func (h *Hold) Await(ctx context.Context, bound time.Duration) error {
	if h.Away() == nil {
		return nil
	}
	late := time.NewTimer(bound)
	defer late.Stop()
	for {
		changed := h.Changed()
		away := h.Away()
		if away == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return fmt.Errorf("not within %s, which the option timeout allows: %w", bound, away)
		}
	}
}
