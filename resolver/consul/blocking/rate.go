// Package blocking holds what a client of Consul's blocking queries keeps to: the index to wait on
// next, how often it asks, and how many connections it takes.
// (https://developer.hashicorp.com/consul/api-docs/features/blocking)
package blocking

import (
	"context"
	"math/rand/v2"
	"time"
)

// Burst is how many requests of one watch are sent at once.
const Burst = 10

// Rate keeps an agent whose index never stands still from being asked in a tight
// loop: a burst at once, then one request each interval.
type Rate struct {
	interval time.Duration
	// free is when the bucket was or will be empty: each request moves it one
	// interval on, and it is never more than a burst behind the clock.
	free time.Time
}

// NewRate begins at now.
func NewRate(interval time.Duration, now time.Time) *Rate {
	return &Rate{interval: interval, free: now.Add(-Burst * interval)}
}

// Delay is how long to wait before the next request, which it counts.
func (r *Rate) Delay(now time.Time) time.Duration {
	if oldest := now.Add(-Burst * r.interval); r.free.Before(oldest) {
		r.free = oldest
	}
	r.free = r.free.Add(r.interval)
	return max(0, r.free.Sub(now))
}

// Pause waits for d; it returns false if ctx ended first.
func Pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Jitter keeps what began together from staying together.
func Jitter(d time.Duration) time.Duration { return d - d/8 + rand.N(d/4) }
