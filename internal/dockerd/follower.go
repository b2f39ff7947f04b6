package dockerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	eventBuffer = 256
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

	containers  map[string]*Container
	unconfirmed map[string]struct{} // of an earlier connection, and not inspected since
	queue       queue
	busy        map[string]bool     // being inspected; true: changed since, inspect again
	unread      map[string]struct{} // to be inspected since they were listed
	marks       map[string]string   // of the last list: entry.mark
	turn        int                 // where in the list the next share begins
	touched     map[string]struct{} // named by an event since the list was asked for
	failures    map[string]*inspectFailure
	killed      map[string]kill // the last signal to stop that each was sent
	retry       <-chan time.Time

	recognised   bool               // it is known which engine this is, or that it cannot be known
	unreconciled *[]listedContainer // the list that came before

	connected bool // the list came through
	listing   bool
	pinging   bool
	asking    bool // the engine is asked for containers that were made a moment ago
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
		f.unconfirmed = s.ids()
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
			f.askMade(ctx)
		case made := <-f.asked:
			f.learnMade(ctx, made)
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
			if err := f.checkLiveness(ctx, looks); err != nil {
				return err
			}
			looks++
		}
		f.publish()
	}
}

// read turns the stream into containerEvents until it ends, which it does with ctx.
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

// publish makes a snapshot of what has changed, once nothing more is waiting to
// be applied.
func (f *eventFollower) publish() {
	if !f.complete || len(f.results) > 0 {
		return
	}
	if f.changed || f.w.Snapshot() == nil {
		f.changed = false
		f.w.publish(NewSnapshot(slices.Collect(maps.Values(f.containers))...).withUnconfirmed(maps.Clone(f.unconfirmed)))
	}
}

// An event stream on which nothing comes may be that of an engine that hangs, or that listens
// somewhere else by now. So the socket is looked at, and the engine is pinged.
const (
	lookInterval = time.Second
	// A ping costs an engine a tenth of a millisecond and takes none of its locks.
	pingInterval = 5 * lookInterval
)

// checkLiveness looks whether the engine can still be reached, the nth time on this connection.
func (f *eventFollower) checkLiveness(ctx context.Context, n int) error {
	if err := f.w.engine.listensStill(ctx, f.socket); err != nil {
		return err
	}
	if n%int(pingInterval/lookInterval) == 0 {
		f.ping(ctx)
	}
	return nil
}

// ping pings the engine, if that is not being done already.
func (f *eventFollower) ping(ctx context.Context) {
	if !f.pinging {
		f.pinging = true
		f.wg.Go(func() { f.pinged <- f.w.engine.ping(ctx) })
	}
}
