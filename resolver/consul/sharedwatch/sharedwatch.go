// Package sharedwatch is for the watches of Consul's services that have no blocking query of their
// own. They share three, which tell that something in their scope has changed: an instance came,
// went or was registered anew; one became critical or ceased to be; or it began or ended to warn.
// The subscribers that are sure to be concerned are told at once (listen.go, search.go). Then a few
// goroutines probe each subscriber (probe.go): a request that costs little tells whether it is
// concerned. The subscribers themselves wait, and are told.
package sharedwatch

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"
)

// Source is an agent as it is asked in one scope.
type Source interface {
	// Query asks path and waits on index unless that is 0. It decodes the answer into into, and
	// returns the answer's index.
	Query(ctx context.Context, path string, index uint64, into any) (uint64, error)
	// Registered asks by one transaction at which indexes some were registered last, 0 for those
	// that the token may not read, or else which of them are gone.
	Registered(ctx context.Context, some []Candidate) (now []uint64, gone map[int]bool, err error)
	// Transactions is how many of these may be under way at once, 0 where they are of no use.
	Transactions() int
	// Probes is how many probes may be.
	Probes() int
}

// Options are how a shared watch asks. Those of the first subscriber hold.
type Options struct {
	Source Source
	// Timeout bounds a probe, and so the pause after a query that has failed.
	Timeout time.Duration
	// Search bounds a search for the subscribers that are concerned.
	Search time.Duration
	// Linger is how long the watch goes on when its last subscriber has left: its queries would
	// count at the agent all the same, and those of the next watch would count beside them.
	Linger time.Duration
}

// Instance is one of a service as an answer had it.
type Instance struct {
	Node  unique.Handle[string] // of thousands of services each has its instances on the same ones
	ID    string
	Index uint64 // at which it was registered last
}

// Watches are the shared watches of one agent, by their scopes. The zero value is ready.
type Watches[Scope comparable] struct {
	mu  sync.Mutex
	all map[Scope]*sharedWatch
}

// sharedWatch is that of one scope. It starts with its first subscriber.
type sharedWatch struct {
	Options

	ctx     context.Context //nolint:containedctx // of what it asks: it serves many watches, and outlives each of them
	stop    context.CancelFunc
	running sync.WaitGroup
	hints   chan struct{} // holds one while a change is to be announced
	forget  func() bool   // forgets it, and reports true, unless somebody has subscribed meanwhile

	mu          sync.Mutex
	subscribers map[string]map[*Subscription]struct{} // by the name of the service, in lower case, of which Consul takes any
	count       int                                   // of them
	left        *time.Timer                           // ends the watch; nil while there are subscribers
	queue       []*Subscription                       // to be probed, in this order
	probing     int                                   // how many goroutines do that
	listed      map[string]bool                       // the services there are, likewise; nil if that is not known
}

// Subscription is the part of one watch in a shared one.
type Subscription struct {
	// Events holds one: nil when there may be another answer, or why the agent could not be asked.
	Events chan error

	watch   *sharedWatch
	service string                                // its name, in lower case
	probe   func(context.Context) (uint64, error) // the index of its answer now

	// Of the last answer, under watch.mu:
	index     uint64
	instances []Instance

	queued bool // under watch.mu, too
	left   bool // likewise
}

// Subscribe joins the shared watch of a scope, which starts with its first subscriber. probe asks
// for the index of the answer alone.
func (w *Watches[Scope]) Subscribe(scope Scope, options Options, service string, probe func(context.Context) (uint64, error)) *Subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	shared := w.all[scope]
	if shared == nil {
		shared = &sharedWatch{Options: options, hints: make(chan struct{}, 1), subscribers: map[string]map[*Subscription]struct{}{}}
		shared.forget = func() bool { return w.forget(scope, shared) }
		if w.all == nil {
			w.all = map[Scope]*sharedWatch{}
		}
		w.all[scope] = shared
		shared.start()
	}
	return shared.subscribe(service, probe)
}

// forget forgets shared, and reports true, unless it has a subscriber.
func (w *Watches[Scope]) forget(scope Scope, shared *sharedWatch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	shared.mu.Lock()
	left := shared.count == 0
	shared.mu.Unlock()
	if left && w.all[scope] == shared {
		delete(w.all, scope)
	}
	return left
}

// Len is how many there are.
func (w *Watches[Scope]) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}

// Close ends those that no watch subscribes to any more.
func (w *Watches[Scope]) Close() {
	w.mu.Lock()
	all := slices.Collect(maps.Values(w.all))
	clear(w.all)
	w.mu.Unlock()
	for _, shared := range all {
		shared.end()
	}
}

func (w *sharedWatch) start() {
	w.ctx, w.stop = context.WithCancel(context.Background())
	for _, path := range paths {
		w.running.Go(func() { w.listen(path) })
	}
	w.running.Go(w.announce)
}

func (w *sharedWatch) subscribe(service string, probe func(context.Context) (uint64, error)) *Subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &Subscription{watch: w, probe: probe, service: strings.ToLower(service), Events: make(chan error, 1)}
	if w.subscribers[s.service] == nil {
		w.subscribers[s.service] = map[*Subscription]struct{}{}
	}
	w.subscribers[s.service][s] = struct{}{}
	w.count++
	if w.left != nil {
		w.left.Stop()
		w.left = nil
	}
	return s
}

// Leave ends the subscription. A nil one has nothing to end.
func (s *Subscription) Leave() {
	if s == nil {
		return
	}
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	s.left = true
	of := w.subscribers[s.service]
	if delete(of, s); len(of) == 0 {
		delete(w.subscribers, s.service)
	}
	if w.count--; w.count == 0 {
		w.left = time.AfterFunc(w.Linger, w.endIfLeft)
	}
}

// endIfLeft ends the watch, unless somebody has subscribed meanwhile.
func (w *sharedWatch) endIfLeft() {
	if w.forget() {
		w.end()
	}
}

// end ends it and waits for that.
func (w *sharedWatch) end() {
	w.mu.Lock()
	if w.left != nil {
		w.left.Stop()
	}
	w.mu.Unlock()
	w.stop()
	w.running.Wait()
}

// Answered says what the subscriber knows. Between its last answer and its subscribing anything
// may have happened, so the first time it is probed.
func (s *Subscription) Answered(index uint64, instances []Instance) {
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	first := s.index == 0
	s.index, s.instances = index, instances
	if first {
		w.enqueue(s)
	}
}

// tell has the subscriber ask, or fail with err.
func (s *Subscription) tell(err error) {
	select {
	case s.Events <- err:
	default:
	}
}

// tell tells the subscribers of these services that they are concerned.
func (w *sharedWatch) tell(services map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range services {
		for s := range w.subscribers[name] {
			s.tell(nil)
		}
	}
}
