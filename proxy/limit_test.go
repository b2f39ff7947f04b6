package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestLimitIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimit("container web", "raise it", Bounds{Open: 2, Queue: 10})
		for range 2 {
			if err := l.alone.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var came []int
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if err := l.alone.enter(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				came = append(came, i)
			})
			synctest.Wait() // in line
		}
		if l.alone.tryEnter() {
			t.Error("one got in past those who wait")
		}
		for i := range 5 {
			l.alone.leave()
			synctest.Wait()
			if len(came) != i+1 || came[i] != i || l.Open() != 2 {
				t.Fatalf("after %d left, %v have come and %d are open; want one more, in order, and 2", i+1, came, l.Open())
			}
		}
		wg.Wait()
	})
}

func TestLimitTurnsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimit("container web by port 6379", "raise connect.6379.client-limit", Bounds{Open: 1, Queue: 1})
		if err := l.alone.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		late := make(chan error)
		go func() { late <- l.alone.enter(deadline(t, 3*time.Second)) }()
		synctest.Wait()
		err := l.alone.enter(deadline(t, 3*time.Second)) // the queue is full
		if ReasonOf(err) != OverLimit || !strings.Contains(err.Error(), "container web by port 6379 is limited to 1 connections at once") ||
			!strings.Contains(err.Error(), "queue of 1") || hint.Of(err) != "raise connect.6379.client-limit" || time.Since(begin) != 0 {
			t.Errorf("past the queue: %v, hint %q after %s", err, hint.Of(err), time.Since(begin))
		}
		if err := <-late; ReasonOf(err) != OverLimit || time.Since(begin) != 3*time.Second {
			t.Errorf("in the queue: %v after %s; want %s after 3s", err, time.Since(begin), OverLimit)
		}
		l.alone.leave()
		if !l.alone.tryEnter() {
			t.Error("the place of one who gave up is lost")
		}
	})
}

func TestLimitPassesOnWhyTheWaitEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, b := range map[string]Bounds{"of places": {Open: 1, Queue: 1}, "of a rate": {Rate: 1, Queue: 1}} {
			l := NewLimit("web", "", b)
			if err := l.alone.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			left := make(chan error)
			go func() { left <- l.alone.enter(ctx) }()
			synctest.Wait()
			cancel(errClientLeft)
			if err := <-left; !errors.Is(err, errClientLeft) {
				t.Errorf("%s: %v; want that the client left", name, err)
			}
			go func() { left <- l.alone.enter(deadline(t, 2*time.Second)) }() // its place in the queue is free again
			synctest.Wait()
			l.alone.leave()
			if err := <-left; err != nil {
				t.Errorf("%s: the next: %v", name, err)
			}
		}
	})
}

func TestLimitOfARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimit("web", "", Bounds{Rate: 10, Queue: 100})
		begin := time.Now()
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if err := l.alone.enter(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("40 took %s; want 10 at once and 10 each second", took)
		}
		if err := l.alone.enter(deadline(t, 50*time.Millisecond)); ReasonOf(err) != OverLimit || !strings.Contains(err.Error(), "10 new connections a second") {
			t.Errorf("with too little time: %v; want to be turned away at once", err)
		}
	})
}

func TestLimitThatIsRaisedOrTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimit("web", "", Bounds{Open: 1, Queue: 10})
		if err := l.alone.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := l.alone.enter(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		l.Set(Bounds{Open: 2, Queue: 10})
		synctest.Wait()
		if l.Open() != 2 {
			t.Errorf("raised to 2: %d are open", l.Open())
		}
		l.Set(Bounds{})
		wg.Wait()
		if l.Open() != 4 {
			t.Errorf("without bounds: %d are open; want all", l.Open())
		}
	})
}

func TestConnectionsPastALimit(t *testing.T) {
	limit := NewLimit("client", "raise it", Bounds{Open: 1, Queue: 1})
	leave := make(chan struct{})
	e := greeterAll(t, leave)
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Endpoints: InOrder(e), Limits: []*Share{limit.Alone()}, Options: Options{Wait: patience}}, nil
	}))
	first := l.dial()
	if _, err := io.ReadFull(first, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	queued := l.dial()
	awaitQueue(t, limit, 1)
	l.dialRefused()
	l.wantReason(l.record(), OverLimit)
	close(leave)
	if b, err := l.read(first); err != nil || b != "" {
		t.Errorf("the first reads %q, %v; want its end", b, err)
	}
	if b, err := l.read(queued); err != nil || b != "hello" {
		t.Errorf("the one in the queue reads %q, %v; want to be served when there is a place", b, err)
	}
	l.record()
	l.record()
	if limit.Open() != 0 {
		t.Errorf("%d places are taken at the end", limit.Open())
	}
}

func TestMoreThanMayBeAccepted(t *testing.T) {
	leave := make(chan struct{})
	l := newLab(t, &Server{Accepted: 1}, to(greeterAll(t, leave)))
	first := l.dial()
	if _, err := io.ReadFull(first, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	l.dialRefused()
	l.wantReason(l.record(), OverLimit)
	close(leave)
	first.Close()
	l.record()
	if b, err := l.read(l.dial()); err != nil || b != "hello" {
		t.Errorf("afterwards one reads %q, %v; want hello", b, err)
	}
}

// greeterAll greets every connection and ends it when leave is closed.
func greeterAll(t *testing.T, leave <-chan struct{}) Endpoint {
	t.Helper()
	return serving(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("hello"))
		<-leave
	})
}

// serving accepts connections until the test ends and hands each to serve.
func serving(t *testing.T, serve func(*net.TCPConn)) Endpoint {
	t.Helper()
	listener := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { listener.Close(); wg.Wait() })
	return Endpoint{Addr: addrOf(listener.Addr()), Name: "greeter"}
}

func awaitQueue(t *testing.T, l *Limit, n int) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; {
		l.mu.Lock()
		waiting := l.waiting
		l.mu.Unlock()
		if waiting == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("nobody waits in the queue")
}
