// Package failures remembers the last connection that failed of each client and port, for those who
// ask why: the log has a line for each, and may be far away, or shortened.
//
// Only a connection that failed costs anything here. What is kept is bounded: of more clients and ports
// than that the one whose last failure is the oldest is forgotten, and texts are cut.
package failures

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

const (
	// mostKept is how many clients and ports are remembered: with the texts of each less than a megabyte.
	mostKept = 1024
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
}

// Last has the last failures. The zero value is ready. Its methods may be called concurrently.
type Last struct {
	mu     sync.Mutex
	byFlow map[flow]*list.Element // of *keptFailure
	order  list.List              // the flow that failed last comes first
}

// Done takes in a connection that has ended; it is for a proxy.Server's Done.
func (l *Last) Done(r proxy.Record) {
	if r.Err == nil {
		return
	}
	f := flow{id: r.Route.Client.ID, port: r.Route.Port}
	if f.id == "" {
		f.source = r.Source.Addr()
	}
	r.Route = proxy.Route{Client: r.Route.Client, Port: r.Route.Port, Target: r.Route.Target} // or it would keep more alive
	text, fix := shorten.Text(r.Err.Error(), mostText), shorten.Text(hint.Of(r.Err), mostText)
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.byFlow[f]
	if at == nil {
		if l.byFlow == nil {
			l.byFlow = map[flow]*list.Element{}
		}
		if oldest := l.order.Back(); len(l.byFlow) >= mostKept && oldest != nil {
			delete(l.byFlow, l.order.Remove(oldest).(*keptFailure).flow)
		}
		at = l.order.PushFront(&keptFailure{flow: f, first: r.Ended})
		l.byFlow[f] = at
	}
	l.order.MoveToFront(at)
	k := at.Value.(*keptFailure)
	k.count++
	k.last, k.err, k.hint = r, text, fix
}

// Report is part of status.Reporter: those that failed last come first.
func (l *Last) Report(s *status.Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at := l.order.Front(); at != nil; at = at.Next() {
		k := at.Value.(*keptFailure)
		s.Failures = append(s.Failures, status.Failure{
			Client: k.last.Route.Client.Name, ID: k.flow.id, Source: k.last.Source, Port: k.flow.port, Target: k.last.Route.Target,
			Count: k.count, First: k.first, Last: k.last.Ended, Reason: proxy.ReasonOf(k.last.Err), Error: k.err, Hint: k.hint,
			Endpoint: k.last.Endpoint.Addr, Attempts: k.last.Attempts, Held: k.last.Held, Up: k.last.Up, Down: k.last.Down,
		})
	}
}
