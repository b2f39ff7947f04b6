package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// TestOutage has a registry away for ten minutes: no connection waits or fails for
// that, and what changed meanwhile is known soon after the registry is back.
func TestOutage(t *testing.T) {
	const outage = 10 * time.Minute
	before, after := endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80")
	source := &fakeSource{}
	var began time.Time
	source.watch = func(ctx context.Context, q Query, publish func(Answer)) error {
		switch {
		case source.calls(q) == 1: // asked for the first time; the registry dies at once
			began = time.Now()
			publish(Answer{Endpoints: []Endpoint{before}})
		case time.Since(began) >= outage:
			publish(Answer{Endpoints: []Endpoint{after}})
			<-ctx.Done()
			return nil
		}
		return errors.New("no leader")
	}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		connect := func() Endpoint {
			t.Helper()
			opened := time.Now()
			got, err := resolved(ctx, r, fake("a"))
			if err != nil || len(got) != 1 {
				t.Fatalf("Resolve %s into the outage: %v, %v", time.Since(began), got, err)
			}
			if waited := time.Since(opened); waited > 0 {
				t.Errorf("a connection waited %s, %s into the outage", waited, opened.Sub(began))
			}
			return got[0]
		}
		connect()
		for time.Since(began) < outage {
			if got := connect(); got != before {
				t.Fatalf("it went to %s, %s into the outage", got, time.Since(began))
			}
			time.Sleep(time.Second)
		}
		if asked := source.calls(fakeQuery("a")); asked > 600 { // once a second at most
			t.Errorf("the registry was asked %d times in %s", asked, outage)
		}
		time.Sleep(3 * time.Second)
		if got := connect(); got != after {
			t.Errorf("3 s after the registry is back it went to %s, not %s", got, after)
		}
	})
}

// TestOutageOfMany has thousands of targets wait for one registry: they ask it no more often
// than some do, and all know soon after the first that it is back. One that fails for a
// reason of its own pauses longer.
func TestOutageOfMany(t *testing.T) {
	const many, outage = 2000, 10 * time.Minute
	source := &fakeSource{}
	var began time.Time
	var asked atomic.Int64
	source.watch = func(ctx context.Context, q Query, publish func(Answer)) error {
		if time.Since(began) < outage || q.Host == "denied" {
			asked.Add(1)
			return errors.New("no leader")
		}
		return hold(ctx, publish, endpoint("10.0.0.1:80"))
	}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		began = time.Now()
		targets := []Target{fake("denied")}
		for i := range many {
			targets = append(targets, fake(fmt.Sprintf("a%d", i)))
		}
		r.Keep(targets)
		time.Sleep(outage / 2)
		before := asked.Load()
		time.Sleep(outage/2 - time.Second)
		if rate := float64(asked.Load()-before) / (outage / 2).Seconds(); rate > 150 {
			t.Errorf("the registry was asked %.0f times a second", rate)
		}
		time.Sleep(4 * time.Second)
		for _, target := range targets[1:] {
			if _, known := r.Known(target, nil); !known {
				t.Fatalf("%s is not known 3 s after the registry is back", target)
			}
		}
		before = asked.Load()
		time.Sleep(5 * time.Minute)
		if n := asked.Load() - before; n > 30 {
			t.Errorf("what is denied was asked %d times in 5 min", n)
		}
	})
}

// TestOneThatIsAnsweredNowAndThen has a registry that is well, and many targets that fail for
// reasons of their own. One that is answered every other time, as a container may have it with a
// name of its own, has none of them asked more often.
func TestOneThatIsAnsweredNowAndThen(t *testing.T) {
	const many, period = 100, 10 * time.Minute
	source := &fakeSource{}
	var asked atomic.Int64
	source.watch = func(ctx context.Context, q Query, publish func(Answer)) error {
		switch {
		case q.Host == "well":
			return hold(ctx, publish, endpoint("10.0.0.1:80"))
		case q.Host != "flaps":
			asked.Add(1)
		case source.calls(q)%2 == 0:
			publish(Answer{Endpoints: []Endpoint{endpoint("10.0.0.2:80")}})
			time.Sleep(time.Second)
		}
		return errors.New("denied")
	}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		targets := []Target{fake("well"), fake("flaps")}
		for i := range many {
			targets = append(targets, fake(fmt.Sprintf("a%d", i)))
		}
		r.Keep(targets)
		time.Sleep(time.Minute) // until they pause as long as may be
		before := asked.Load()
		time.Sleep(period)
		if each := (asked.Load() - before) / many; each > 40 { // every 15 to 30 s
			t.Errorf("each of those that fail was asked %d times in %s", each, period)
		}
	})
}

// TestStatusOfAnOutage says why there is no endpoint at each moment, also while the source is to be asked
// again.
func TestStatusOfAnOutage(t *testing.T) {
	down := errors.New("no leader")
	source := &fakeSource{watch: func(context.Context, Query, func(Answer)) error { return down }}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		_, _ = resolved(ctx, r, fake("a"))
		for range 600 {
			if err := r.StatusNow(fake("a")).Err; !errors.Is(err, down) {
				t.Fatalf("after %d questions: %v; want %v", source.calls(fakeQuery("a")), err, down)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}
