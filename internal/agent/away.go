package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/option"
)

// away is why nothing that the engine has said is current; nil if it is, or there is none.
func (a *agent) away() error {
	if a.docker == nil {
		return nil
	}
	return a.docker.Away()
}

// doubts is of how many containers the engine has yet to say what has become of them.
func (a *agent) doubts() int {
	if a.docker == nil {
		return 0
	}
	if snapshot := a.docker.Snapshot(); snapshot != nil {
		return snapshot.Doubts()
	}
	return 0
}

// current reports whether the engine has said what is known of c since it was last lost.
func (a *agent) current(c *dockerd.Container) bool {
	if a.docker == nil {
		return true
	}
	snapshot := a.docker.Snapshot()
	return snapshot == nil || snapshot.Current(c)
}

// engineChanged is closed when away or doubts may be others. Whoever waits for that asks for
// it first.
func (a *agent) engineChanged() <-chan struct{} {
	if a.docker == nil {
		return nil
	}
	return a.docker.Changed()
}

// holdBound is how long a connection to port is held whose client the engine has to name
// first: as long as the option timeout allows whoever declares it, which it bounds likewise
// once the client is known.
func (a *agent) holdBound(port uint16) time.Duration {
	bound, declared := time.Duration(0), false
	if table := a.table.load(); table != nil {
		for b := range table.Declared(port) {
			bound, declared = max(bound, b.Options.Timeout), true
		}
	}
	if !declared {
		defaults, _ := option.Merge(a.tuned().cfg.Defaults, nil) // a mistake in it was refused
		bound = defaults.Timeout
	}
	return bound
}

// awaitEngine returns when what the engine has said is current. The error says that it is
// not within bound.
func (a *agent) awaitEngine(ctx context.Context, bound time.Duration) error {
	if a.away() == nil {
		return nil
	}
	late := time.NewTimer(bound)
	defer late.Stop()
	for {
		changed := a.engineChanged()
		away := a.away()
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
