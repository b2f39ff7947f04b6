package attach

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
)

const (
	// rarely is how often, on average, a container is looked at whose every change the
	// kernel tells of. To enter a namespace and to ask takes half a millisecond, which at
	// the repair interval would be most of what a daemon with many containers does all day.
	rarely = 15 * time.Minute

	// breather is how long a container's changes are let be after a look: what it does
	// to its own rules all the time must not keep us busy all the time. Where a look takes
	// long it is share times as long as that, and longestBreather at most.
	breather        = time.Second
	share           = 10
	longestBreather = time.Minute
)

// rest is how long to let changes be after a look that took so long.
func rest(took time.Duration) time.Duration {
	return min(max(breather, share*took), longestBreather)
}

// lookout is what the kernel tells of a container's namespace. The zero value is told
// nothing.
type lookout struct {
	changed <-chan struct{} // holds a token after a change; nil while nobody tells
	end     func()
	warned  bool
}

// close ends the telling. It may be called again.
func (l *lookout) close() {
	if l.end != nil {
		l.end()
		l.changed, l.end = nil, nil
	}
}

// lookOut begins to be told, if all that may change is told of. Before a look, so that
// what comes between the two is not missed.
func (at *attachment) lookOut(ctx context.Context) {
	if at.lookout.end != nil || at.Name == config.Redirect && !at.Rules.Told() {
		return
	}
	changed, end, err := at.ns.Changes(ctx)
	if err != nil {
		if !at.lookout.warned {
			at.lookout.warned = true
			owner := at.desired.Load().Owner
			at.Log.Warn("changes of a container's rules are seen at the repair interval only",
				"client", owner.Name, "id", owner.ShortID(), "error", err)
		}
		return
	}
	at.lookout = lookout{changed: changed, end: end}
}

// interval is how long to wait for news before the next look. Containers that all were
// there at the daemon's start are not to be looked at all at once.
func (at *attachment) interval() time.Duration {
	interval := at.Settings.Load().Config.RepairInterval
	if at.lookout.changed == nil {
		return interval
	}
	return max(interval, rarely/2+rand.N(rarely))
}

// untouched reports whether the rules are those that were found in order: nobody has told
// of a change, and nothing else has to be asked. In mode listen there are none.
func (at *attachment) untouched(ctx context.Context) bool {
	if at.Name == config.Listen {
		return false
	}
	defer at.turn()()
	return at.rules.Untouched(ctx, at.ns)
}
