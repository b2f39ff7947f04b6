package limit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// Limit bounds how many connections are open at once and how many begin in a second.
// Clients take their places by a Share each, and those that wait for one are served in
// the order that fairness.go says. The zero value of each bound is no bound. Make one with
// New.
type Limit struct {
	what, fix string

	mu      sync.Mutex
	bounds  Bounds
	clients int // how many there may be, as far as is known
	open    int
	reserve int           // places that are kept: bounds.Reserve, or what the clients have a use for
	sure    int           // places of which each of them is sure; 0 without a reserve
	paid    int           // of those, as many as they have
	have    *Share        // the first of those that have a place
	rate    *rate.Limiter // nil without a rate
	due     bool          // a timer runs until the rate allows the next one
	grants  uint64        // places given so far
	waiting int           // connections that wait for a place or for the rate
	queue   []*Share      // that they are of
	alone   *Share
	short   shortage
}

// Bounds are what a Limit holds to.
type Bounds struct {
	// Open is how many connections may be open at once.
	Open int
	// Rate is how many may begin in a second; as many may at once.
	Rate int
	// Queue is how many may wait.
	Queue int
	// Reserve is how many of Open are kept for clients that have few: see Share.
	Reserve int
}

// New makes a Limit. what names what is limited, for an error ("container web by
// port 6379"), and fix says how to raise it.
func New(what, fix string, b Bounds) *Limit {
	l := &Limit{what: what, fix: fix}
	l.alone = l.Share("")
	l.Set(b)
	return l
}

// Share makes the share of one client, whom name names for an error.
func (l *Limit) Share(name string) *Share { return &Share{limit: l, Name: name} }

// Alone is the share of connections that have no other: of a Limit for one client, all of it.
func (l *Limit) Alone() *Share { return l.alone }

// Limit is whose share it is.
func (s *Share) Limit() *Limit { return s.limit }

// Set changes the bounds. A connection that has a place keeps it; one that waits may get it.
func (l *Limit) Set(b Bounds) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case b.Rate <= 0:
		l.rate, l.due = nil, false
	case l.rate == nil:
		l.rate = rate.NewLimiter(rate.Limit(b.Rate), b.Rate)
	case b.Rate != l.bounds.Rate:
		l.rate.SetLimit(rate.Limit(b.Rate))
		l.rate.SetBurst(b.Rate)
	}
	l.bounds = b
	l.setSure()
	l.admit()
}

// SetClients says how many clients there may be, each of which is to be sure of a part of
// the reserve.
func (l *Limit) SetClients(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == n {
		return
	}
	l.clients = n
	l.setSure()
	l.admit() // with fewer clients less is owed
}

// Open is how many connections have a place.
func (l *Limit) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// Idle reports whether it would be the same if it were made anew: nobody has a place
// or waits for one, and no rate remembers anybody.
func (l *Limit) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open == 0 && l.waiting == 0 && (l.rate == nil || l.rate.Tokens() >= float64(l.rate.Burst()))
}

// waiter is a connection that waits. done is closed when it has its place, which is
// counted by then, or when it is turned away.
type waiter struct {
	done chan struct{}
	away bool // it was turned away for others
	look uint // at the shortage, the last one before it waited
}

// TryEnter takes a place if that takes no wait.
func (s *Share) TryEnter() bool {
	l := s.limit
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.take(s)
}

// Enter takes a place, which Leave gives back, waiting for it until the deadline of
// ctx. The error is an *Over, or ctx's cause when somebody else ended it.
func (s *Share) Enter(ctx context.Context) error {
	l := s.limit
	l.mu.Lock()
	if l.take(s) {
		l.mu.Unlock()
		return nil
	}
	if err := l.mayWait(ctx, s); err != nil {
		l.lack(s, true)
		l.mu.Unlock()
		return &Over{err}
	}
	w := &waiter{done: make(chan struct{}), look: l.short.looks}
	l.join(s, w)
	l.admit()
	if len(s.waiting) > 0 {
		l.lack(s, false)
	}
	l.mu.Unlock()
	select {
	case <-w.done:
		if !w.away {
			return nil
		}
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.away {
		return &Over{l.over(s, "others need its place in the queue, who have fewer there")}
	}
	select {
	case <-w.done: // just now
		l.release(s)
	default:
		l.part(s, w)
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		if w.look == l.short.looks { // else it was seen there
			l.lack(s, true)
		}
		return &Over{l.over(s, "no place became free in time")}
	}
	return context.Cause(ctx)
}

// Leave gives a place back.
func (s *Share) Leave() {
	s.limit.mu.Lock()
	defer s.limit.mu.Unlock()
	s.limit.release(s)
}

// mayWait says why no connection of s may wait: the queue is full of others that wait for
// no more than it would, or its turn would come too late. It is called with mu held.
func (l *Limit) mayWait(ctx context.Context, s *Share) error {
	if deadline, bounded := ctx.Deadline(); bounded && l.rate != nil && l.may(s) {
		before := l.waiting
		if others := len(l.queue); others > 0 { // they take turns
			before = min(before, (len(s.waiting)+1)*others)
		}
		if wait := time.Duration(float64(before+1)-l.rate.Tokens()) * time.Second / time.Duration(l.bounds.Rate); wait > time.Until(deadline) {
			return l.over(s, "another %d wait already", l.waiting)
		}
	}
	if !l.makeRoom(s) {
		return l.noRoom(s)
	}
	return nil
}

// Over is why a connection is turned away: there is no place for it.
type Over struct{ Err error }

func (o *Over) Error() string { return o.Err.Error() }

// Unwrap gives the reason, with what to do about it.
func (o *Over) Unwrap() error { return o.Err }

// over is why a connection of s is turned away. It is called with mu held.
func (l *Limit) over(s *Share, format string, args ...any) error {
	bounds := shorten.Count(l.bounds.Open, "connection", "connections") + " at once"
	switch {
	case l.bounds.Open <= 0:
		bounds = shorten.Count(l.bounds.Rate, "new connection", "new connections") + " a second"
	case l.bounds.Rate > 0:
		bounds += " and " + shorten.Count(l.bounds.Rate, "new one", "new ones") + " a second"
	}
	has := ""
	if s.Name != "" {
		has = fmt.Sprintf(", of which %s has %d", s.Name, s.open)
	}
	return hint.Errorf(l.fix, "%s is limited to %s%s, and %s", l.what, bounds, has, fmt.Sprintf(format, args...))
}

// Status is how a Limit stands.
type Status struct {
	What    string // what is limited
	Bounds  Bounds
	Open    int // connections that have a place
	Waiting int // that wait for one, or for the rate
}

// Status is how l stands now.
func (l *Limit) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Status{What: l.what, Bounds: l.bounds, Open: l.open, Waiting: l.waiting}
}
