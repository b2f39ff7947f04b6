package dockerd

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
)

const (
	// inspectLimit bounds the inspects in flight for a full list. Those that
	// events ask for may use as many again, so that neither a long list nor
	// containers that hang in it delay what an event asks for.
	inspectLimit = 8
	urgentLimit  = 2 * inspectLimit

	// A container that cannot be inspected is tried again after minRetry, then
	// ever later, up to maxRetry.
	minRetry = time.Second
	maxRetry = 30 * time.Second
)

// queue holds the IDs that are to be inspected, each once: those that events
// named first, then those of a full list.
type queue struct {
	waiting map[string]bool // true: urgent
	urgent  []string
	routine []string
}

func newQueue() queue { return queue{waiting: make(map[string]bool)} }

func (q *queue) push(id string, urgent bool) {
	was, waiting := q.waiting[id]
	if waiting && (was || !urgent) {
		return
	}
	q.waiting[id] = urgent
	if urgent {
		q.urgent = append(q.urgent, id) // its place in routine, if any, is skipped when it comes
	} else {
		q.routine = append(q.routine, id)
	}
}

// pop takes the next ID, of the routine ones only if told so.
func (q *queue) pop(routine bool) (string, bool) {
	for len(q.urgent) > 0 {
		id := q.urgent[0]
		q.urgent = q.urgent[1:]
		if q.waiting[id] {
			delete(q.waiting, id)
			return id, true
		}
	}
	for routine && len(q.routine) > 0 {
		id := q.routine[0]
		q.routine = q.routine[1:]
		if urgent, waiting := q.waiting[id]; waiting && !urgent {
			delete(q.waiting, id)
			return id, true
		}
	}
	return "", false
}

type inspectResult struct {
	id        string
	container *Container
	err       error
}

// inspectFailure is a container that the engine lists and does not show.
type inspectFailure struct {
	pauses backoff.Backoff
	delay  time.Duration // the last of these
	due    time.Time
}

// inspect starts as many inspects as are wanted and allowed.
func (f *eventFollower) inspect(ctx context.Context) {
	for len(f.busy) < urgentLimit {
		id, ok := f.queue.pop(len(f.busy) < inspectLimit)
		if !ok {
			return
		}
		f.busy[id] = false
		f.wg.Go(func() {
			c, err := f.w.engine.inspect(ctx, id)
			f.results <- inspectResult{id: id, container: c, err: err} // has room for every one that may run
		})
	}
}

func (f *eventFollower) apply(ctx context.Context, r inspectResult) {
	again := f.busy[r.id]
	delete(f.busy, r.id)
	if again {
		f.queue.push(r.id, true)
	}
	switch {
	case errors.Is(r.err, errNoContainer):
		f.drop(r.id)
	case r.err != nil:
		f.fail(ctx, r.id, r.err)
	default:
		delete(f.failures, r.id)
		f.confirm(r.id)
		r.container.Stopping = f.isStopping(r.container)
		old := f.containers[r.id]
		if old != nil && maps.Equal(old.Labels, r.container.Labels) {
			r.container.Labels = old.Labels // which is held once, and is equal at a glance
		}
		if old == nil || !reflect.DeepEqual(old, r.container) {
			f.containers[r.id] = r.container
			f.changed = true
		}
	}
	delete(f.unread, r.id)
	if f.connected && len(f.unread) == 0 {
		f.complete = true
	}
}

// confirm takes a container as current.
func (f *eventFollower) confirm(id string) {
	if _, unconfirmed := f.unconfirmed[id]; unconfirmed {
		delete(f.unconfirmed, id)
		f.changed = true
	}
}

func (f *eventFollower) drop(id string) {
	delete(f.unconfirmed, id)
	delete(f.failures, id)
	delete(f.killed, id)
	if _, known := f.containers[id]; known {
		delete(f.containers, id)
		f.changed = true
	}
}

// fail keeps what is known of a container and tries it again later. One
// container that hangs or is broken is no outage: the ping tells whether the
// engine itself still answers.
func (f *eventFollower) fail(ctx context.Context, id string, err error) {
	if ctx.Err() != nil {
		return
	}
	x := f.failures[id]
	if x == nil {
		x = &inspectFailure{pauses: backoff.Backoff{Base: f.w.minRetry, Max: maxRetry}}
		f.failures[id] = x
		f.w.log.Warn("docker container cannot be inspected; what was known of it stays", "container", id, "error", err)
	}
	x.delay = x.pauses.Next()
	x.due = time.Now().Add(x.delay)
	f.armRetry()
	if !answered(err) {
		f.ping(ctx)
	}
}

func (f *eventFollower) retryDue() {
	now := time.Now()
	for id, x := range f.failures {
		if x.due.After(now) {
			continue
		}
		x.due = now.Add(x.delay)
		if _, busy := f.busy[id]; !busy {
			f.queue.push(id, false)
		}
	}
	f.armRetry()
}

// armRetry sets the timer for the failure that is due first.
func (f *eventFollower) armRetry() {
	f.retry = nil
	var first time.Time
	for _, x := range f.failures {
		if first.IsZero() || x.due.Before(first) {
			first = x.due
		}
	}
	if !first.IsZero() {
		f.retry = time.After(time.Until(first))
	}
}
