package dockerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	docker "github.com/fsouza/go-dockerclient"

	"github.com/ambassadord/ambassadord/internal/backoff"
)

const (
	// inspectLimit bounds the inspects in flight for a full list. Those that
	// events ask for may use as many again, so that neither a long list nor
	// containers that hang in it delay the news.
	inspectLimit = 8
	urgentLimit  = 2 * inspectLimit

	eventBuffer = 256

	// A container that cannot be inspected is tried again after minRetry, then
	// ever later, up to maxRetry.
	minRetry = time.Second
	maxRetry = 30 * time.Second
)

// eventFollower keeps the snapshot equal to the engine for as long as one event
// stream lasts. One goroutine, run, owns all its fields; lists, inspects and the
// stream have goroutines of their own that only send it what they found.
type eventFollower struct {
	w         *Watcher
	onConnect func()
	wg        sync.WaitGroup
	socket    socketFile // as it was before the connection; the zero value where it cannot be seen

	events  chan containerEvent
	ended   chan error // why the stream ended
	pinged  chan error
	listed  chan listing
	asked   chan []containerEvent
	modes   chan networkMode
	results chan inspectResult

	identified chan engineIdentity

	containers map[string]*Container
	doubted    map[string]struct{} // of an earlier connection, and not inspected since
	queue      queue
	busy       map[string]bool     // being inspected; true: changed since, inspect again
	unread     map[string]struct{} // to be inspected since they were listed
	marks      map[string]string   // of the last list: entry.mark
	turn       int                 // where in the list the next share begins
	touched    map[string]struct{} // named by an event since the list was asked for
	failures   map[string]*inspectFailure
	killed     map[string]kill // the last signal to stop that each was sent
	retry      <-chan time.Time

	recognised   bool               // it is known which engine this is, or that it cannot be known
	unreconciled *[]listedContainer // the list that came before

	connected bool // the list came through
	listing   bool
	pinging   bool
	asking    bool // for containers that were made a moment ago
	askAgain  bool
	modesBusy int  // questions for the network mode of one that is announced
	complete  bool // a snapshot may be published
	changed   bool
}

// containerEvent is that a container may have changed.
type containerEvent struct {
	id string
	// created is what the event of its creation tells; nil for any other.
	created *Container
	// killed is a signal that it was sent; nil for any other event.
	killed *kill
}

type listing struct {
	entries []listedContainer
	err     error
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

func newFollower(w *Watcher, onConnect func()) *eventFollower {
	f := &eventFollower{
		w:          w,
		onConnect:  onConnect,
		events:     make(chan containerEvent, eventBuffer),
		ended:      make(chan error, 1),
		pinged:     make(chan error, 1),
		listed:     make(chan listing, 1),
		asked:      make(chan []containerEvent, 1),
		modes:      make(chan networkMode, modesAtOnce),
		results:    make(chan inspectResult, urgentLimit),
		identified: make(chan engineIdentity, 1),
		containers: make(map[string]*Container),
		queue:      newQueue(),
		busy:       make(map[string]bool),
		unread:     make(map[string]struct{}),
		touched:    make(map[string]struct{}),
		failures:   make(map[string]*inspectFailure),
		killed:     make(map[string]kill),
	}
	if s := w.Snapshot(); s != nil { // of an earlier connection: true until shown otherwise
		f.complete = true
		f.doubted = s.all()
		for _, c := range s.Containers() {
			f.containers[c.ID] = c
		}
	}
	return f
}

// run returns why it could not go on, after all its goroutines have ended.
func (f *eventFollower) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.wg.Wait()
	defer cancel()

	// The stream is opened first: what happens after that is told by an event,
	// what happened before is in the list.
	if err := f.w.engine.transport.renew(); err != nil {
		return fmt.Errorf("docker engine at %s: %w", f.w.engine.endpoint, err)
	}
	f.socket, _ = socketAt(f.w.engine.socket) // one that is not there cannot be connected to
	body, err := f.w.engine.events(ctx)
	if err != nil {
		return err
	}
	f.wg.Go(func() { f.read(ctx, body) })
	f.wg.Go(func() { f.identified <- f.w.engine.identify(ctx, f.w.engineID) })
	f.wg.Go(func() { f.w.findPodman(ctx) })
	f.list(ctx)

	resync := time.NewTicker(f.w.resync)
	defer resync.Stop()
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for looks := 1; ; {
		f.inspect(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-f.ended:
			return err
		case err := <-f.pinged:
			if err != nil {
				return err
			}
			f.pinging = false
		case n := <-f.events:
			f.announce(ctx, n)
			f.stopping(n)
			f.touch(n.id)
		case <-f.w.catchUp:
			f.ask(ctx)
		case made := <-f.asked:
			f.learn(ctx, made)
		case m := <-f.modes:
			f.learnMode(m)
		case r := <-f.results:
			f.apply(ctx, r)
		case l := <-f.listed:
			if l.err != nil {
				return l.err
			}
			if !f.recognised {
				f.unreconciled = &l.entries
				break
			}
			f.reconcile(l.entries)
		case now := <-f.identified:
			f.recognise(now)
		case <-resync.C:
			if !f.listing && len(f.unread) == 0 {
				f.list(ctx)
			}
		case <-f.retry:
			f.retryDue()
		case <-look.C:
			if err := f.pulse(ctx, looks); err != nil {
				return err
			}
			looks++
		}
		f.publish()
	}
}

// read turns the stream into news until it ends, which it does with ctx.
func (f *eventFollower) read(ctx context.Context, body io.ReadCloser) {
	defer body.Close()
	events := newEventReader(body)
	for {
		event, err := events.next()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the engine closed it")
			}
			f.ended <- f.w.engine.explain(ctx, "reading the event stream", err)
			return
		}
		id := subject(event)
		if id == "" {
			continue
		}
		select {
		case f.events <- containerEvent{id: id, created: f.w.announcement(event), killed: killedBy(event)}:
		case <-ctx.Done():
			return
		}
	}
}

// announcement is what is known of a container from the event of its creation; nil for any
// other event.
func (w *Watcher) announcement(event *docker.APIEvents) *Container {
	created := announced(event)
	if created != nil {
		r := w.recorded(created.ID)
		created.Env, created.NetworkMode = r.env, r.networkMode
		created.keepDeclared()
	}
	return created
}

// announce makes a new container known before it is inspected. The engine answers
// for no container that it is starting, and on a busy machine that may begin
// before our question is there.
func (f *eventFollower) announce(ctx context.Context, n containerEvent) {
	if n.created == nil || f.containers[n.id] != nil {
		return
	}
	f.containers[n.id] = n.created
	f.changed = true
	if n.created.NetworkMode == "" {
		f.askMode(ctx, n.id)
	}
}

func (f *eventFollower) touch(id string) {
	if f.listing {
		f.touched[id] = struct{}{}
	}
	if _, busy := f.busy[id]; busy {
		f.busy[id] = true
		return
	}
	f.queue.push(id, true)
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
	if _, doubted := f.doubted[id]; doubted {
		delete(f.doubted, id)
		f.changed = true
	}
}

func (f *eventFollower) drop(id string) {
	delete(f.doubted, id)
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

// publish makes a snapshot of what has changed, once nothing more is waiting to
// be applied.
func (f *eventFollower) publish() {
	if !f.complete || len(f.results) > 0 {
		return
	}
	if f.changed || f.w.Snapshot() == nil {
		f.changed = false
		f.w.publish(NewSnapshot(slices.Collect(maps.Values(f.containers))...).doubting(maps.Clone(f.doubted)))
	}
}
