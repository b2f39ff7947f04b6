package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Limit bounds how many connections are open at once and how many begin in a second.
// What is past it waits in a queue, first come, first served. The zero value of each
// bound is no bound. Make one with NewLimit.
type Limit struct {
	what, fix string

	mu      sync.Mutex
	bounds  Bounds
	open    int
	rate    *rate.Limiter // nil without a rate
	slowed  int           // how many wait for the rate
	waiting list.List     // of *waiter, those who wait for a place
}

// Bounds are what a Limit holds to.
type Bounds struct {
	// Open is how many connections may be open at once.
	Open int
	// Rate is how many may begin in a second; as many may at once.
	Rate int
	// Queue is how many may wait.
	Queue int
}

// waiter is closed when it has its place, which is counted by then.
type waiter chan struct{}

// NewLimit makes a Limit. what names what is limited, for an error ("container web by
// port 6379"), and fix says how to raise it.
func NewLimit(what, fix string, b Bounds) *Limit {
	l := &Limit{what: what, fix: fix}
	l.Set(b)
	return l
}

// Set changes the bounds. Who has a place keeps it; who waits may get one.
func (l *Limit) Set(b Bounds) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case b.Rate <= 0:
		l.rate = nil
	case l.rate == nil:
		l.rate = rate.NewLimiter(rate.Limit(b.Rate), b.Rate)
	case b.Rate != l.bounds.Rate:
		l.rate.SetLimit(rate.Limit(b.Rate))
		l.rate.SetBurst(b.Rate)
	}
	l.bounds = b
	l.admit()
}

// Open is how many connections have a place.
func (l *Limit) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// tryEnter takes a place if that takes no wait.
func (l *Limit) tryEnter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.free() || l.queueing() > 0 || l.rate != nil && !l.rate.Allow() {
		return false
	}
	l.open++
	return true
}

// Idle reports whether it would be the same if it were made anew: nobody has a place
// or waits for one, and no rate remembers anybody.
func (l *Limit) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open == 0 && l.queueing() == 0 && (l.rate == nil || l.rate.Tokens() >= float64(l.rate.Burst()))
}

// enter takes a place, which leave gives back, waiting for it until the deadline of
// ctx. The error is a *Failure, or ctx's cause when somebody else ended it.
func (l *Limit) enter(ctx context.Context) error {
	if err := l.pace(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	if l.free() && l.waiting.Len() == 0 {
		l.open++
		l.mu.Unlock()
		return nil
	}
	if l.queueing() >= l.bounds.Queue {
		defer l.mu.Unlock()
		return l.over("no place is left in its queue of %d", l.bounds.Queue)
	}
	w := make(waiter)
	element := l.waiting.PushBack(w)
	l.mu.Unlock()
	select {
	case <-w:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w: // it got its place just now
		l.release()
	default:
		l.waiting.Remove(element)
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return l.over("no place became free in time")
	}
	return context.Cause(ctx)
}

func (l *Limit) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release()
}

func (l *Limit) release() {
	l.open--
	l.admit()
}

func (l *Limit) free() bool { return l.bounds.Open <= 0 || l.open < l.bounds.Open }

func (l *Limit) queueing() int { return l.waiting.Len() + l.slowed }

// admit gives places to those who wait. It is called with mu held.
func (l *Limit) admit() {
	for l.free() && l.waiting.Len() > 0 {
		l.open++
		close(l.waiting.Remove(l.waiting.Front()).(waiter))
	}
}

// pace waits until the rate allows another connection.
func (l *Limit) pace(ctx context.Context) error {
	l.mu.Lock()
	if l.rate == nil {
		l.mu.Unlock()
		return nil
	}
	reservation := l.rate.Reserve()
	delay := reservation.Delay()
	deadline, bounded := ctx.Deadline()
	switch {
	case delay <= 0:
		l.mu.Unlock()
		return nil
	case l.queueing() >= l.bounds.Queue, bounded && time.Until(deadline) < delay:
		reservation.Cancel()
		defer l.mu.Unlock()
		return l.over("another %d wait already", l.queueing())
	}
	l.slowed++
	l.mu.Unlock()
	turn := time.NewTimer(delay)
	defer turn.Stop()
	var err error
	select {
	case <-turn.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowed--
	if err != nil {
		reservation.Cancel()
	}
	return err
}

// over is why a connection is turned away. It is called with mu held.
func (l *Limit) over(format string, args ...any) error {
	bounds := fmt.Sprintf("%d connections at once", l.bounds.Open)
	switch {
	case l.bounds.Open <= 0:
		bounds = fmt.Sprintf("%d new connections a second", l.bounds.Rate)
	case l.bounds.Rate > 0:
		bounds += fmt.Sprintf(" and %d new ones a second", l.bounds.Rate)
	}
	return Fail(OverLimit, hint.Errorf(l.fix, "%s is limited to %s, and %s", l.what, bounds, fmt.Sprintf(format, args...)))
}

// tryEnter passes the limits of a route, and then the server's, as far as it can at once,
// and says how many that are.
func (s *Server) tryEnter(route *Route) (entered int, all bool) {
	for entered, l := range route.Limits {
		if !l.tryEnter() {
			return entered, false
		}
	}
	entered = len(route.Limits)
	if s.Limit == nil {
		return entered, true
	}
	if !s.Limit.tryEnter() {
		return entered, false
	}
	return entered + 1, true
}

// leave gives all of them back.
func (s *Server) leave(route *Route) {
	for _, l := range route.Limits {
		l.leave()
	}
	if s.Limit != nil {
		s.Limit.leave()
	}
}

// limits is how many that are.
func (s *Server) limits(route *Route) int {
	if s.Limit == nil {
		return len(route.Limits)
	}
	return len(route.Limits) + 1
}
