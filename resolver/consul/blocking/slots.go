package blocking

import (
	"context"
	"sync/atomic"
	"time"
)

// Slots share out an agent's connections. Over HTTP/1.1 each blocking query takes
// one for as long as it waits, and an agent refuses those of one address beyond a
// limit (200), whichever program they belong to. So the first so many watches have a query of
// their own; the rest share a watch. Over HTTP/2, which agents speak with TLS, many
// queries share a connection, and every watch has its own.
//
// A blocking query that we give up goes on at the agent: for most of what it asks, an
// agent does not notice that nobody waits any more, and counts the connection until the
// time is over that the query was to wait. So long its slot stays taken. Otherwise
// watches that come and go, as containers do, would use up the agent's limit.
//
// The probes of shared watches have half of the short slots, and their transactions a quarter: a
// watch that asks for an answer does not wait until thousands have been probed, nor do probes wait
// for transactions where an agent is slow.
type Slots struct {
	blocking, short, probes, transactions chan struct{}
	multiplexed                           atomic.Bool
}

// NewSlots makes slots for so many blocking queries, and for so many requests that do not wait.
func NewSlots(blocking, short int) *Slots {
	return &Slots{
		blocking: make(chan struct{}, blocking), short: make(chan struct{}, short),
		probes: make(chan struct{}, max(short/2, 1)), transactions: make(chan struct{}, max(short/4, 1)),
	}
}

// SetMultiplexed says whether the agent speaks HTTP/2.
func (s *Slots) SetMultiplexed(is bool) { s.multiplexed.Store(is) }

// Probes is how many probes may be under way at once.
func (s *Slots) Probes() int { return cap(s.probes) }

// Transactions is how many transactions may be.
func (s *Slots) Transactions() int { return cap(s.transactions) }

// Slot is for one request, the zero value for one that takes none.
type Slot struct {
	taken chan struct{}
	// Leave gives back what the client has of it; nil for nothing.
	Leave func()
}

// Release gives the slot back when the agent has nothing to do with the request any
// more: at once, or later.
func (s Slot) Release(later time.Duration) {
	if s.Leave != nil { // with us the connection is closed
		s.Leave()
	}
	switch {
	case s.taken == nil:
	case later <= 0:
		<-s.taken
	default:
		time.AfterFunc(later, func() { <-s.taken })
	}
}

// TakeBlocking takes a slot for a blocking query, if there is one or one becomes free
// within patience.
func (s *Slots) TakeBlocking(ctx context.Context, patience time.Duration) (taken Slot, ok bool) {
	if s.multiplexed.Load() {
		return Slot{}, true
	}
	select {
	case s.blocking <- struct{}{}:
		return Slot{taken: s.blocking}, true
	default:
	}
	if patience == 0 {
		return Slot{}, false
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case s.blocking <- struct{}{}:
		return Slot{taken: s.blocking}, true
	case <-over.C:
	case <-ctx.Done():
	}
	return Slot{}, false
}

// TakeShort takes a slot for a request that does not wait, or fails with ctx.
func (s *Slots) TakeShort(ctx context.Context) (release func(), err error) {
	return take(ctx, s.short)
}

// TakeProbe is TakeShort for a probe.
func (s *Slots) TakeProbe(ctx context.Context) (release func(), err error) {
	return s.takeShare(ctx, s.probes)
}

// TakeTransaction is TakeShort for a transaction.
func (s *Slots) TakeTransaction(ctx context.Context) (release func(), err error) {
	return s.takeShare(ctx, s.transactions)
}

// takeShare is TakeShort for what has only a share of them.
func (s *Slots) takeShare(ctx context.Context, share chan struct{}) (release func(), err error) {
	leave, err := take(ctx, share)
	if err != nil {
		return nil, err
	}
	leaveShort, err := s.TakeShort(ctx)
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
