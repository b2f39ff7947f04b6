package proxy

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// spliced is a connection being spliced, seen from its two far ends.
type spliced struct {
	client, endpoint *net.TCPConn
	began            time.Time
	result           chan Record
}

func spliceWith(t *testing.T, ctx context.Context, bounds limits) *spliced { //nolint:revive // t first, as everywhere
	t.Helper()
	s := &spliced{began: time.Now(), result: make(chan Record, 1)}
	client, accepted := couple(t)
	dialled, endpoint := couple(t)
	s.client, s.endpoint = client, endpoint
	for _, conn := range []*net.TCPConn{accepted, dialled} {
		if err := conn.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var r Record
		r.Up, r.Down, r.Err = splice(ctx, accepted, dialled, ended{}, bounds)
		r.Duration = time.Since(s.began)
		s.result <- r
	}()
	t.Cleanup(func() {
		reset(client)
		reset(endpoint)
		<-done
	})
	return s
}

func (s *spliced) wait(t *testing.T) Record {
	t.Helper()
	select {
	case r := <-s.result:
		return r
	case <-time.After(patience):
		t.Fatal("it goes on")
		panic("unreachable")
	}
}

// end waits for the end, which must be a reset of both with the reason.
func (s *spliced) end(t *testing.T, reason Reason) Record {
	t.Helper()
	wantReset(t, s.client)
	wantReset(t, s.endpoint)
	r := s.wait(t)
	if got := ReasonOf(r.Err); got != reason {
		t.Errorf("reason %q (%v), want %q", got, r.Err, reason)
	}
	return r
}

func TestIdleTimeout(t *testing.T) {
	const limit = 200 * time.Millisecond
	const jiffy = 10 * time.Millisecond // by which the kernel, who counts in them, may be early
	s := spliceWith(t, t.Context(), limits{Idle: limit})
	if r := s.end(t, IdleTimeout); r.Duration < limit-jiffy {
		t.Errorf("cut after %s, before %s", r.Duration, limit)
	}
}

// What moves starts the idle timeout anew. TestIdleFor has how that is known.
func TestIdleCountsFromTheLastMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = time.Minute
		var moved atomic.Pointer[time.Time]
		move := func() { now := time.Now(); moved.Store(&now) }
		move()
		cut := make(chan error, 1)
		timers := &timers{
			limits:  limits{Idle: limit},
			idleFor: func(_, _ *net.TCPConn) (time.Duration, error) { return time.Since(*moved.Load()), nil },
			cut:     func(err error) { cut <- err },
		}
		timers.start()
		for range 10 {
			time.Sleep(limit - time.Nanosecond)
			select {
			case err := <-cut:
				t.Fatalf("cut before %s had passed since the last move: %v", limit, err)
			default:
			}
			move()
		}
		if err := <-cut; ReasonOf(err) != IdleTimeout {
			t.Errorf("cut with %v, want the reason %s", err, IdleTimeout)
		}
		if waited := time.Since(*moved.Load()); waited != limit {
			t.Errorf("cut %s after the last move, want %s", waited, limit)
		}
	})
}

func TestHalfClosedTimeout(t *testing.T) {
	const limit = 150 * time.Millisecond
	for name, which := range map[string]func(*spliced) (first, second *net.TCPConn){
		"the client's first":   func(s *spliced) (_, _ *net.TCPConn) { return s.client, s.endpoint },
		"the endpoint's first": func(s *spliced) (_, _ *net.TCPConn) { return s.endpoint, s.client },
	} {
		t.Run(name, func(t *testing.T) {
			s := spliceWith(t, t.Context(), limits{HalfClosed: limit})
			first, second := which(s)
			time.Sleep(2 * limit) // it must not count yet
			mustWrite(t, first, "x")
			began := time.Now()
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(second); err != nil || string(b) != "x" {
				t.Fatalf("read %q, %v", b, err)
			}
			wantReset(t, first)
			r := s.wait(t)
			if ReasonOf(r.Err) != HalfClosedTimeout {
				t.Errorf("ended with %v, want the reason %s", r.Err, HalfClosedTimeout)
			}
			if waited := time.Since(began); waited < limit {
				t.Errorf("cut %s after the first end, before %s", waited, limit)
			}
			if !gone(second) {
				t.Error("the second side has not been reset")
			}
		})
	}
	t.Run("both in time", func(t *testing.T) {
		s := spliceWith(t, t.Context(), limits{HalfClosed: patience})
		s.client.CloseWrite()
		s.endpoint.CloseWrite()
		if r := s.wait(t); r.Err != nil {
			t.Errorf("ended with %v", r.Err)
		}
	})
}

func TestLifetime(t *testing.T) {
	const limit = 150 * time.Millisecond
	s := spliceWith(t, t.Context(), limits{Idle: patience, HalfClosed: patience, Lifetime: limit})
	if r := s.end(t, LifetimeOver); r.Duration < limit {
		t.Errorf("cut after %s, before %s", r.Duration, limit)
	}
}

// Limits that are not reached hold up nothing, and an end leaves no timer behind.
func TestLimitsOfWhatHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := spliceWith(t, ctx, limits{Idle: time.Hour, HalfClosed: time.Hour, Lifetime: time.Hour})
	mustWrite(t, s.client, "x")
	if _, err := io.ReadFull(s.endpoint, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel(Fail(DrainTimeout, context.Canceled))
	s.end(t, DrainTimeout)

	ended := &timers{limits: limits{Idle: time.Nanosecond, HalfClosed: time.Nanosecond, Lifetime: time.Nanosecond}, cut: func(err error) {
		t.Errorf("cut after its end: %v", err)
	}}
	ended.stop()
	ended.start()
	ended.halfClosed()
	if ended.idle != nil || ended.halfClose != nil || ended.wholeLife != nil {
		t.Error("a timer was started after the end")
	}
}

// TestLifetimesVary: downwards, by as much as is asked for.
func TestLifetimesVary(t *testing.T) {
	o := Options{Lifetime: time.Hour, LifetimeJitter: 10}
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := o.lifetime()
		least, most = min(least, d), max(most, d)
	}
	if least < 54*time.Minute || most > time.Hour || most-least < 5*time.Minute {
		t.Errorf("from %s to %s; want from 54m to 1h, and most of that", least, most)
	}
	o.LifetimeJitter = 0
	if d := o.lifetime(); d != time.Hour {
		t.Errorf("%s without jitter", d)
	}
}
