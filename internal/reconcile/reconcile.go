// Package reconcile is the loop that keeps something as it is wanted: it does the work at once,
// again at an interval, soon after a change has been told of, and after a failure with growing
// pauses. The modes keep rules with it, and the source guard its bindings.
package reconcile

import (
	"context"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Settling is how long the network is left to whatever changes it before it is looked at: a
// firewall's reload is many changes.
const Settling = 50 * time.Millisecond

// firstPause and longestPause bound the pauses after failures.
const firstPause, longestPause = 50 * time.Millisecond, 5 * time.Second

// Options say when to do the work.
type Options struct {
	// Settings are waited for: when they are replaced the work is done, in full, and
	// Interval is asked anew. By default Interval is their RepairInterval.
	Settings *settings.Current
	Interval func() time.Duration

	// Later has the work not be done at once, because the caller has done it.
	Later bool
	// Retry has it done again after an error. Without it the next change, or the interval, will do.
	Retry bool
	// Kicked holds a token when it is to be done at once, and in full.
	Kicked <-chan struct{}
	// Changed holds a token when something may have changed; nil while nobody tells of changes.
	// It is asked for before each wait. Then the work is done, not in full, when Settling is over.
	Changed func() <-chan struct{}
	// Also is a second such channel.
	Also <-chan struct{}
	// Rest is how long changes are let be after the end of the last work, if not Settling.
	Rest func() time.Duration
	// Untouched reports, at the interval, whether there is nothing to do; nil for never.
	Untouched func() bool
}

// Loop does the work until ctx ends. full is false where merely a change was told of: what is to
// be renewed at the interval is not renewed then. The changes of the work itself are told as well,
// so it must come to rest.
func Loop(ctx context.Context, o Options, do func(full bool) error) {
	if o.Interval == nil {
		o.Interval = func() time.Duration { return o.Settings.Load().Config.RepairInterval }
	}
	l := reconciler{Options: o, do: do, pause: backoff.Backoff{Base: firstPause, Max: longestPause}, current: o.Settings.Load()}
	l.due = time.NewTimer(o.Interval())
	defer l.due.Stop()
	if !o.Later {
		l.work(true)
	}
	for {
		full, ok := l.wait(ctx)
		if !ok {
			return
		}
		l.work(full)
	}
}

type reconciler struct {
	Options
	do      func(full bool) error
	due     *time.Timer
	current *settings.Settings

	pause backoff.Backoff
	retry <-chan time.Time // nil unless the last work failed
	ended time.Time        // of the last work
}

func (l *reconciler) work(full bool) {
	err := l.do(full)
	l.ended = time.Now()
	if full {
		l.due.Reset(l.Interval())
	}
	l.retry = nil
	switch {
	case err == nil:
		l.pause.Reset()
	case l.Retry:
		l.retry = time.After(l.pause.Next())
	}
}

// wait returns when there is a reason to do the work, and ok false when ctx has ended.
func (l *reconciler) wait(ctx context.Context) (full, ok bool) {
	var changed <-chan struct{}
	if l.Changed != nil {
		changed = l.Changed()
	}
	also := l.Also
	var settled <-chan time.Time
	for {
		select {
		case <-changed:
			changed, also = nil, nil // one is reason enough
			settled = time.After(l.settling())
		case <-also:
			changed, also = nil, nil
			settled = time.After(l.settling())
		case <-settled:
			return false, true
		case <-l.due.C:
			if settled == nil && l.Untouched != nil && l.Untouched() {
				l.due.Reset(l.Interval())
				continue
			}
			return true, true
		case <-l.retry:
			return true, true
		case <-l.Kicked:
			return true, true
		case <-l.current.Replaced():
			l.current = l.Settings.Load()
			return true, true
		case <-ctx.Done():
			return false, false
		}
	}
}

// settling is how long to wait after a change.
func (l *reconciler) settling() time.Duration {
	if l.Rest == nil {
		return Settling
	}
	return max(Settling, l.Rest()-time.Since(l.ended))
}

// Told is Options.Changed for what the kernel tells of the network namespace ns, nil for the
// process's own, until ctx ends; nil, after failed was called, where it does not tell.
func Told(ctx context.Context, ns *netns.Namespace, failed func(error)) func() <-chan struct{} {
	changed, end, err := ns.Changes(ctx)
	if err != nil {
		failed(err)
		return nil
	}
	context.AfterFunc(ctx, end)
	return func() <-chan struct{} { return changed }
}
