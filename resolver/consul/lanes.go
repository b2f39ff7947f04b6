package consul

import (
	"context"
	"sync/atomic"
	"time"
)

// shortLanes is how many requests that do not wait may be under way at one agent, and
// fewShortLanes at one that a target names: a client may have many of those asked, and each
// request takes a descriptor of ours.
const shortLanes, fewShortLanes = 16, 8

// lanes share out an agent's connections. Over HTTP/1.1 each blocking query takes
// one for as long as it waits, and an agent refuses those of one address beyond a
// limit (200), whoever they belong to. So the first so many watches have a query of
// their own; for the rest see crowd. Over HTTP/2, which agents speak with TLS, many
// queries share a connection, and every watch has its own.
//
// A blocking query that we give up goes on at the agent: for most of what it asks, an
// agent does not notice that nobody waits any more, and counts the connection until the
// time is over that the query was to wait. So long its lane stays taken. Otherwise
// watches that come and go, as containers do, would use up the agent's limit.
//
// The probes of crowds have half of the short lanes, and their transactions a quarter: whoever
// asks for an answer does not wait until thousands have been looked after, nor does one wait for
// the other where an agent is slow.
type lanes struct {
	blocking, short, probes, transactions chan struct{}
	multiplexed                           atomic.Bool
}

func (l *lanes) init(blocking, short int) {
	l.blocking, l.short = make(chan struct{}, blocking), make(chan struct{}, short)
	l.probes, l.transactions = make(chan struct{}, max(short/2, 1)), make(chan struct{}, max(short/4, 1))
}

// requestSlot is for one request, the zero value for one that takes none.
type requestSlot struct {
	taken chan struct{}
	leave func() // gives back what the client has of it; nil for nothing
}

// release gives the lane back when the agent has nothing to do with the request any
// more: at once, or later.
func (l requestSlot) release(later time.Duration) {
	if l.leave != nil { // with us the connection is closed
		l.leave()
	}
	switch {
	case l.taken == nil:
	case later <= 0:
		<-l.taken
	default:
		time.AfterFunc(later, func() { <-l.taken })
	}
}

// takeBlocking takes a lane for a blocking query, if there is one or one becomes free
// within patience.
func (l *lanes) takeBlocking(ctx context.Context, patience time.Duration) (taken requestSlot, ok bool) {
	if l.multiplexed.Load() {
		return requestSlot{}, true
	}
	select {
	case l.blocking <- struct{}{}:
		return requestSlot{taken: l.blocking}, true
	default:
	}
	if patience == 0 {
		return requestSlot{}, false
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case l.blocking <- struct{}{}:
		return requestSlot{taken: l.blocking}, true
	case <-over.C:
	case <-ctx.Done():
	}
	return requestSlot{}, false
}

// takeShort takes a lane for a request that does not wait, or fails with ctx.
func (l *lanes) takeShort(ctx context.Context) (release func(), err error) {
	return take(ctx, l.short)
}

// takeShare is takeShort for what has only a share of them, probes or transactions.
func (l *lanes) takeShare(ctx context.Context, share chan struct{}) (release func(), err error) {
	leave, err := take(ctx, share)
	if err != nil {
		return nil, err
	}
	leaveShort, err := l.takeShort(ctx)
	if err != nil {
		leave()
		return nil, err
	}
	return func() { leaveShort(); leave() }, nil
}

func take(ctx context.Context, slots chan struct{}) (release func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
