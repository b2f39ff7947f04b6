package consul

import (
	"context"
	"time"
)

// paceBurst is how many requests of one watch are sent at once.
const paceBurst = 10

// pace keeps an agent whose index never stands still from being asked in a tight
// loop: a burst at once, then one request each interval.
type pace struct {
	interval time.Duration
	// free is when the bucket was or will be empty: each request moves it one
	// interval on, and it is never more than a burst behind the clock.
	free time.Time
}

func newPace(interval time.Duration, now time.Time) *pace {
	return &pace{interval: interval, free: now.Add(-paceBurst * interval)}
}

// delay is how long to wait before the next request, which it counts.
func (p *pace) delay(now time.Time) time.Duration {
	if oldest := now.Add(-paceBurst * p.interval); p.free.Before(oldest) {
		p.free = oldest
	}
	p.free = p.free.Add(p.interval)
	return max(0, p.free.Sub(now))
}

// pause waits for d; it returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
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
