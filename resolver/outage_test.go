package resolver

import (
	"context"
	"errors"
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
		if asked := source.calls(fakeQuery("a")); asked > 60 {
			t.Errorf("the registry was asked %d times in %s", asked, outage)
		}
		time.Sleep(31 * time.Second) // the longest backoff is 30 s
		if got := connect(); got != after {
			t.Errorf("half a minute after the registry is back it went to %s, not %s", got, after)
		}
	})
}
