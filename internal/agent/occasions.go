package agent

import (
	"context"
	"time"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// settling is how long the network is left to whoever changes it before we look:
// a firewall's reload is many changes.
const settling = 50 * time.Millisecond

// occasions calls look at every repair interval, then with due, and soon after the
// kernel has told of a change in our own network namespace, or there is a token in
// also, which may be nil. It returns when ctx ends. What look itself changes is told
// as well, so it must come to rest.
func (a *agent) occasions(ctx context.Context, also <-chan struct{}, look func(due bool)) {
	var own *netns.Namespace
	changed, end, err := own.Changes(ctx)
	if err != nil {
		a.log.Warn("changes of the rules are seen at the repair interval only", "error", err)
	} else {
		defer end()
	}
	tuned := a.tuned()
	repair := time.NewTicker(tuned.cfg.RepairInterval)
	defer repair.Stop()
	for {
		due := false
		select {
		case <-repair.C:
			due = true
		case <-tuned.replaced.Done():
			tuned = a.tuned()
			repair.Reset(tuned.cfg.RepairInterval)
			due = true // what is renewed at the interval may have to last longer now
		case <-changed: // never, if nobody tells
			if !settle(ctx) {
				return
			}
		case <-also:
			if !settle(ctx) {
				return
			}
		case <-ctx.Done():
			return
		}
		look(due)
	}
}

// settle waits, and reports whether ctx has not ended.
func settle(ctx context.Context) bool {
	select {
	case <-time.After(settling):
		return true
	case <-ctx.Done():
		return false
	}
}
