package consul

import (
	"context"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// ask sends one request with these options and returns the answer and its index.
type ask func(*api.QueryOptions) (resolver.Answer, *api.QueryMeta, error)

// watch asks, publishes what is new, and asks again with the index it got, until
// a request fails or ctx ends. Errors are the request's own, for the caller to
// explain.
func (c *Client) watch(ctx context.Context, publish func(resolver.Answer), ask ask) error {
	publish = answer.OnChange(publish)
	var (
		index uint64
		rate  = newPace(time.Now())
	)
	for {
		got, meta, err := c.askOnce(ctx, index, ask)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		publish(got)
		index = nextIndex(index, meta.LastIndex)
		if !pause(ctx, rate.delay(time.Now())) {
			return nil
		}
	}
}

func (c *Client) askOnce(ctx context.Context, index uint64, ask ask) (resolver.Answer, *api.QueryMeta, error) {
	patience := c.config.Slack
	if index != 0 {
		patience += c.config.Wait + c.config.Wait/16 // the agent adds up to a 16th against herds
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	options := &api.QueryOptions{WaitIndex: index, WaitTime: c.config.Wait}
	return ask(options.WithContext(ctx))
}

// nextIndex is the index to wait on after an answer with index got to a request
// with index waited, by the rules of Consul's "Blocking Queries": start over when
// it goes backwards (the servers were restored, or are others), and never wait on
// 0, which does not wait at all.
func nextIndex(waited, got uint64) uint64 {
	if got < waited {
		return 0
	}
	return max(got, 1)
}

const (
	paceInterval = 100 * time.Millisecond
	paceBurst    = 10
)

// pace keeps an agent whose index never stands still from being asked in a tight
// loop: a burst at once, then one request each interval.
type pace struct {
	// free is when the bucket was or will be empty: each request moves it one
	// interval on, and it is never more than a burst behind the clock.
	free time.Time
}

func newPace(now time.Time) *pace { return &pace{free: now.Add(-paceBurst * paceInterval)} }

// delay is how long to wait before the next request, which it counts.
func (p *pace) delay(now time.Time) time.Duration {
	if oldest := now.Add(-paceBurst * paceInterval); p.free.Before(oldest) {
		p.free = oldest
	}
	p.free = p.free.Add(paceInterval)
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
