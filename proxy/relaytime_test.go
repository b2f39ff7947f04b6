package proxy

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

// relayedConn is a connection that is relayed, seen from its two far ends.
type relayedConn struct {
	client, endpoint *net.TCPConn
	began            time.Time
	result           chan Record
}

func relayWith(t *testing.T, ctx context.Context, bounds limits) *relayedConn { //nolint:revive // t first, as everywhere
	t.Helper()
	s := &relayedConn{began: time.Now(), result: make(chan Record, 1)}
	client, accepted := sockettest.Couple(t)
	dialled, endpoint := sockettest.Couple(t)
	s.client, s.endpoint = client, endpoint
	for _, conn := range []*net.TCPConn{accepted, dialled} {
		if err := conn.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := between(ctx, accepted, dialled, bounds)
		r.Duration = time.Since(s.began)
		s.result <- r
	}()
	t.Cleanup(func() {
		socket.Reset(client)
		socket.Reset(endpoint)
		<-done
	})
	return s
}

func (s *relayedConn) wait(t *testing.T) Record {
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
func (s *relayedConn) end(t *testing.T, reason Reason) Record {
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
	s := relayWith(t, t.Context(), limits{Idle: limit})
	if r := s.end(t, IdleTimeout); r.Duration < limit-jiffy {
		t.Errorf("cut after %s, before %s", r.Duration, limit)
	}
}

// What moves starts the idle timeout anew. TestIdleFor has how that is known.
func TestIdleCountsFromTheLastMove(t *testing.T) {
	const limit, moves = 20 * time.Millisecond, 10
	looks := 0
	records := make(chan Record, 1)
	server := &Server{Done: func(r Record) { records <- r }}
	server.reclaimer.idle = func(_, _ int) (time.Duration, error) { // called by the loop alone
		if looks++; looks <= moves {
			return time.Millisecond, nil // since which a byte has moved
		}
		return limit, nil
	}
	server.init()
	server.enter()
	client, accepted := sockettest.Couple(t)
	dialled, endpoint := sockettest.Couple(t)
	began := time.Now()
	r := &relay{route: &Route{}, verdict: &unjudged{}, more: &more{bounds: limits{Idle: limit}, leave: func() {}}}
	if !server.relay(r, accepted, dialled, began) {
		t.Fatal("no descriptor is left")
	}
	wantReset(t, client)
	wantReset(t, endpoint)
	record := <-records
	if ReasonOf(record.Err) != IdleTimeout || looks != moves+1 {
		t.Errorf("after %d looks ended with %v; want the reason %s after %d", looks, record.Err, IdleTimeout, moves+1)
	}
	if least := limit + moves*(limit-time.Millisecond); time.Since(began) < least {
		t.Errorf("cut after %s; want that each move puts it off, to %s at least", time.Since(began), least)
	}
	server.Drain(t.Context())
}

func TestHalfClosedTimeout(t *testing.T) {
	const limit = 150 * time.Millisecond
	for name, which := range map[string]func(*relayedConn) (first, second *net.TCPConn){
		"the client's first":   func(s *relayedConn) (_, _ *net.TCPConn) { return s.client, s.endpoint },
		"the endpoint's first": func(s *relayedConn) (_, _ *net.TCPConn) { return s.endpoint, s.client },
	} {
		t.Run(name, func(t *testing.T) {
			s := relayWith(t, t.Context(), limits{HalfClosed: limit})
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
			if !socket.Gone(second) {
				t.Error("the second side has not been reset")
			}
		})
	}
	t.Run("both in time", func(t *testing.T) {
		s := relayWith(t, t.Context(), limits{HalfClosed: patience})
		s.client.CloseWrite()
		s.endpoint.CloseWrite()
		if r := s.wait(t); r.Err != nil {
			t.Errorf("ended with %v", r.Err)
		}
	})
}

func TestLifetime(t *testing.T) {
	const limit = 150 * time.Millisecond
	s := relayWith(t, t.Context(), limits{Idle: patience, HalfClosed: patience, Lifetime: limit})
	if r := s.end(t, LifetimeOver); r.Duration < limit {
		t.Errorf("cut after %s, before %s", r.Duration, limit)
	}
}

// Limits that are not reached hold up nothing, and an end leaves no timer behind.
func TestLimitsOfWhatHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := relayWith(t, ctx, limits{Idle: time.Hour, HalfClosed: time.Hour, Lifetime: time.Hour})
	mustWrite(t, s.client, "x")
	if _, err := io.ReadFull(s.endpoint, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel(Fail(DrainTimeout, context.Canceled))
	s.end(t, DrainTimeout)

	for name, late := range map[string]func(*relay){
		"idle":     (*relay).checkIdle,
		"lifetime": func(r *relay) { r.cut(lifetimeOver(time.Hour)) },
	} {
		r := &relay{state: over} // the loop has what a timer posted before it was stopped
		if late(r); r.settled || r.state != over {
			t.Errorf("%s: a limit was enforced after the end: %v", name, r.cause)
		}
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
