package attach

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/ambassadord/ambassadord/netrules/netns"
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

// changeWatch is what the kernel tells of changes in a container's namespace. The zero value is told
// nothing.
type changeWatch struct {
	changed <-chan struct{} // holds a token after a change; nil while nothing is told
	end     func()
	failed  bool
}

// begin has the kernel tell of changes in ns, unless it does. Only the first failure is returned.
func (w *changeWatch) begin(ctx context.Context, ns *netns.Namespace) error {
	if w.end != nil {
		return nil
	}
	changed, end, err := ns.Changes(ctx)
	if err != nil {
		again := w.failed
		w.failed = true
		if again {
			return nil
		}
		return err
	}
	*w = changeWatch{changed: changed, end: end}
	return nil
}

// close ends the telling. It may be called again.
func (w *changeWatch) close() {
	if w.end != nil {
		w.end()
		w.changed, w.end = nil, nil
	}
}

// interval is how long to wait for a change before the next look: repair, the interval of the
// configuration, where none is told of. Containers that all were there at the daemon's start are
// not to be looked at all at once.
func (w *changeWatch) interval(repair time.Duration) time.Duration {
	if w.changed == nil {
		return repair
	}
	return max(repair, rarely/2+rand.N(rarely))
}
