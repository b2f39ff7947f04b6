// Package backoff is the pauses between attempts at something that fails: each is twice as long
// as the one before, up to a bound (exponential backoff), and a part of it may be left to
// chance, so that many who failed at the same time do not come back at the same time.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is the pauses of one thing that is attempted again and again, by one goroutine.
type Backoff struct {
	// Base is the first pause, and Max the longest one. A Max of less than Base is Base.
	Base, Max time.Duration
	// Jitter is the part of a pause that is left to chance, from 0 to 1: with 0.2 a pause is
	// between 80 % of its length and all of it.
	Jitter float64

	last time.Duration // without the jitter; 0 before the first
}

// Next is the pause before the next attempt.
func (b *Backoff) Next() time.Duration {
	longest := max(b.Base, b.Max)
	switch {
	case b.last == 0:
		b.last = b.Base
	case b.last > longest/2: // twice that may not be a time.Duration
		b.last = longest
	default:
		b.last *= 2
	}
	if b.Jitter <= 0 {
		return b.last
	}
	return b.last - time.Duration(rand.Float64()*b.Jitter*float64(b.last))
}

// Reset makes Base the next pause, after a success.
func (b *Backoff) Reset() { b.last = 0 }

// Wait waits for Next. It returns false as soon as ctx ends.
func (b *Backoff) Wait(ctx context.Context) bool {
	timer := time.NewTimer(b.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
