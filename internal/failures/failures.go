// Package failures remembers the last connection that failed of each client and port, for those who
// ask why: the log has a line for each, and may be far away, or shortened.
//
// A connection that ended well costs a look-up, and that only where some have failed. What is kept is bounded: of more clients and ports
// than that the one whose last failure is the oldest is forgotten, and texts are cut.
package failures

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

const (
	// mostKept is how many clients and ports are remembered: with the texts of each less than a megabyte.
	mostKept = 1024
	// mostOfOne is how many of them one container has at most, and mostOfOthers all clients that are none: nobody
	// displaces what is known of others by failing at many ports, or from many addresses.
	mostOfOne, mostOfOthers = 64, 256
	// mostText is how many bytes of an error or a hint are kept.
	mostText = 512
)

// flow is whose failures are kept apart: a client's at one port. A client that is no container, such
// as that of a listener, is told by its address.
type flow struct {
	id     string
	source netip.Addr // of a client without an ID
	port   uint16
}

// keptFailure is the last failure of a flow.
type keptFailure struct {
	flow  flow
	count int
	first time.Time
	last  proxy.Record
	err   string
	hint  string
	// served is when the last one since ended well, in nanoseconds since 1970; 0 where none has.
	served atomic.Int64
}

// Last has the last failures. The zero value is ready. Its methods may be called concurrently.
type Last struct {
	some   atomic.Bool // whether anything is kept
	mu     sync.RWMutex
	byFlow map[flow]*list.Element // of *keptFailure
	ofID   map[string]int         // how many each container has; "" is all clients that are none
	order  list.List              // the flow that failed last comes first
}

// Done takes in a connection that has ended; it is for a proxy.Server's Done.
func (l *Last) Done(r proxy.Record) {
	if r.Err == nil && !l.Any() {
		return
	}
	f := flow{id: r.Route.Client.ID, port: r.Route.Port}
	if f.id == "" {
		f.source = r.Source.Addr()
	}
	if r.Err == nil {
		l.served(f, &r)
		return
	}
	r.Route = proxy.Route{Client: r.Route.Client, Port: r.Route.Port, Target: r.Route.Target} // or it would keep more alive
	text, fix := shorten.Text(r.Err.Error(), mostText), shorten.Text(hint.Of(r.Err), mostText)
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.byFlow[f]
	if at == nil {
		if l.byFlow == nil {
			l.byFlow, l.ofID = map[flow]*list.Element{}, map[string]int{}
		}
		l.makeRoom(f)
		l.ofID[f.id]++
		at = l.order.PushFront(&keptFailure{flow: f, first: r.Ended})
		l.byFlow[f] = at
	}
	l.order.MoveToFront(at)
	k := at.Value.(*keptFailure)
	k.count++
	k.last, k.err, k.hint = r, text, fix
	k.served.Store(0)
	l.some.Store(true)
}

// Any reports whether any failure is kept. Where none is, a connection that ended well need not be told of.
func (l *Last) Any() bool { return l.some.Load() }

// served notes that a connection ended well, if it began after the last that failed.
func (l *Last) served(f flow, r *proxy.Record) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	at := l.byFlow[f]
	if at == nil {
		return
	}
	if k := at.Value.(*keptFailure); r.Ended.Add(-r.Duration).After(k.last.Ended) {
		k.served.Store(r.Ended.UnixNano())
	}
}

// makeRoom forgets the oldest failure of those who have too many, if f's client has, or else the oldest of all if there are
// too many. It is called with mu held.
func (l *Last) makeRoom(f flow) {
	most := mostOfOne
	if f.id == "" {
		most = mostOfOthers
	}
	full := l.ofID[f.id] >= most
	if !full && len(l.byFlow) < mostKept {
		return
	}
	at := l.order.Back()
	for full && at.Value.(*keptFailure).flow.id != f.id {
		at = at.Prev()
	}
	gone := l.order.Remove(at).(*keptFailure).flow
	delete(l.byFlow, gone)
	if l.ofID[gone.id]--; l.ofID[gone.id] == 0 {
		delete(l.ofID, gone.id)
	}
}

// Report is part of status.Reporter: those that failed last come first.
func (l *Last) Report(s *status.Snapshot) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for at := l.order.Front(); at != nil; at = at.Next() {
		k := at.Value.(*keptFailure)
		s.Failures = append(s.Failures, status.Failure{
			Client: k.last.Route.Client.Name, ID: k.flow.id, Source: k.last.Source, Port: k.flow.port, Target: k.last.Route.Target,
			Count: k.count, First: k.first, Last: k.last.Ended, Reason: proxy.ReasonOf(k.last.Err), Error: k.err, Hint: k.hint,
			Endpoint: k.last.Endpoint.Addr, Attempts: k.last.Attempts, Held: k.last.Held, Up: k.last.Up, Down: k.last.Down,
		})
		if served := k.served.Load(); served != 0 {
			s.Failures[len(s.Failures)-1].Served = time.Unix(0, served)
		}
	}
}
