package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

const patience = 10 * time.Second // for what happens at once when it works

// lab is a Server with one listener, and the records of its connections.
type lab struct {
	t       *testing.T
	server  *Server
	addr    netip.AddrPort
	records chan Record
	stop    func() // stops accepting
}

func newLab(t *testing.T, server *Server, router Router) *lab {
	t.Helper()
	return newLabAt(t, server, router, listen(t))
}

func newLabAt(t *testing.T, server *Server, router Router, listener *net.TCPListener) *lab {
	t.Helper()
	l := &lab{t: t, server: server, records: make(chan Record, 100)}
	server.Done = func(r Record) { l.records <- r }
	if server.ctx == nil {
		server.Loops = ways.loops
		server.init()
	}
	l.addr = listener.Addr().(*net.TCPAddr).AddrPort()
	stop, err := server.Accept(NewListener(listener), router)
	if err != nil {
		t.Fatal(err)
	}
	l.stop = sync.OnceFunc(stop)
	t.Cleanup(func() {
		l.stop()
		expired, cancel := context.WithCancel(context.Background())
		cancel()
		server.Drain(expired)
	})
	return l
}

func (l *lab) dial() *net.TCPConn {
	l.t.Helper()
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(l.addr))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		l.t.Fatal(err)
	}
	return conn
}

// read reads to the end of what the proxy sends, and leaves.
func (l *lab) read(conn *net.TCPConn) (string, error) {
	defer conn.Close()
	b, err := io.ReadAll(conn)
	return string(b), err
}

// dialRefused dials and demands to be reset, which may show in the dial already.
func (l *lab) dialRefused() {
	l.t.Helper()
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(l.addr))
	if err != nil {
		if !errors.Is(err, syscall.ECONNRESET) {
			l.t.Errorf("dial: %v; want a reset", err)
		}
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		l.t.Fatal(err)
	}
	wantReset(l.t, conn)
}

func (l *lab) record() Record {
	l.t.Helper()
	select {
	case r := <-l.records:
		return r
	case <-time.After(patience):
		l.t.Fatal("the connection did not end")
		panic("unreachable")
	}
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// backend accepts one connection and hands it to serve.
func backend(t *testing.T, serve func(*net.TCPConn)) Endpoint {
	t.Helper()
	listener := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.AcceptTCP()
		if err != nil {
			return // the test ended without a connection
		}
		defer conn.Close()
		serve(conn)
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return Endpoint{Addr: listener.Addr().(*net.TCPAddr).AddrPort(), Name: "backend"}
}

// refused is an endpoint at which nobody listens.
func refused(t *testing.T) Endpoint {
	t.Helper()
	return Endpoint{Addr: servertest.Nobody(t), Name: "refused"}
}

func to(endpoints ...Endpoint) Router { return toWith(Options{}, endpoints...) }

func toWith(o Options, endpoints ...Endpoint) Router {
	router := RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Client: Client{Name: "client"}, Port: 6379, Target: "target", Endpoints: InOrder(endpoints...), Options: o}, nil
	})
	if ways.nonBlocking {
		return nonBlocking{router}
	}
	return router
}

func wantReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer reads %v; want a reset", err)
	}
}

func (l *lab) wantReason(r Record, reason Reason) {
	l.t.Helper()
	if got := ReasonOf(r.Err); got != reason {
		l.t.Errorf("reason %q (%v); want %q", got, r.Err, reason)
	}
}

func random(n int) []byte {
	source := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = source.Read(b) // never fails
	return b
}

func TestHalfCloseBothWays(t *testing.T) {
	request, answer := random(3<<20), random(5<<20)
	for name, clientFirst := range map[string]bool{"client ends first": true, "endpoint ends first": false} {
		t.Run(name, func(t *testing.T) {
			got := make(chan []byte, 1)
			l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
				if !clientFirst {
					_, _ = c.Write(answer)
					_ = c.CloseWrite()
				}
				b, _ := io.ReadAll(c)
				got <- b
				if clientFirst {
					_, _ = c.Write(answer)
				}
			})))
			conn := l.dial()
			if !clientFirst {
				if b, err := io.ReadAll(conn); err != nil || !bytes.Equal(b, answer) {
					t.Fatalf("read %d bytes, %v; want the %d of the answer before the request is sent", len(b), err, len(answer))
				}
			}
			if _, err := conn.Write(request); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b := <-got; !bytes.Equal(b, request) {
				t.Errorf("the endpoint read %d bytes; want the %d of the request, unchanged", len(b), len(request))
			}
			if clientFirst {
				if b, err := io.ReadAll(conn); err != nil || !bytes.Equal(b, answer) {
					t.Errorf("read %d bytes, %v; want the %d of the answer after the request's end", len(b), err, len(answer))
				}
			}
			r := l.record()
			if r.Err != nil || r.Up != int64(len(request)) || r.Down != int64(len(answer)) || r.Endpoint.Name != "backend" || r.Attempts != 1 {
				t.Errorf("record %+v; want %d up, %d down, no error", r, len(request), len(answer))
			}
		})
	}
}

func TestNextEndpointOnFailure(t *testing.T) {
	l := newLab(t, &Server{}, to(refused(t), refused(t), backend(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) })))
	if b, err := l.read(l.dial()); err != nil || b != "hello" {
		t.Errorf("read %q, %v; want the third endpoint's hello", b, err)
	}
	if r := l.record(); r.Attempts != 3 || r.Endpoint.Name != "backend" {
		t.Errorf("record %+v; want the third attempt's endpoint", r)
	}
}

func TestNoEndpointAnswers(t *testing.T) {
	l := newLab(t, &Server{}, to(refused(t), refused(t)))
	l.dialRefused()
	r := l.record()
	l.wantReason(r, DialFailed)
	if r.Attempts != 2 || r.Up != 0 || r.Down != 0 {
		t.Errorf("record %+v; want two attempts and no bytes", r)
	}
}

// Each endpoint gets its fair share of the time that those before it have left.
func TestSilentEndpointLeavesTimeForTheNext(t *testing.T) {
	silent := Endpoint{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	last := backend(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("x")) })
	const budget = time.Hour
	// Its time was shared out some time between after and called.
	type attempt struct{ after, called, deadline time.Time }
	var attempts []attempt
	after := time.Now()
	l := newLab(t, &Server{
		Dial: func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
			a := attempt{after: after, called: time.Now()}
			a.deadline, _ = ctx.Deadline()
			attempts = append(attempts, a)
			defer func() { after = time.Now() }()
			if addr == silent.Addr {
				return nil, context.DeadlineExceeded
			}
			return dialTCP(ctx, addr, &Options{})
		},
	}, toWith(Options{Timeout: budget, AttemptTimeout: budget}, silent, silent, last))
	if b, err := l.read(l.dial()); err != nil || b != "x" {
		t.Errorf("read %q, %v; want the last endpoint to be reached although two before it swallow packets", b, err)
	}
	l.record()
	if len(attempts) != 3 {
		t.Fatalf("%d attempts; want 3", len(attempts))
	}
	end := attempts[2].deadline // the last one gets all that is left
	if end.Before(attempts[0].after.Add(budget)) || end.After(attempts[0].called.Add(budget)) {
		t.Errorf("the search ends in %s; want %s", end.Sub(attempts[0].called), budget)
	}
	for i, a := range attempts {
		// The clock is read for what is left, and then for the deadline.
		share := func(left, at time.Time) time.Time { return at.Add(end.Sub(left) / time.Duration(len(attempts)-i)) }
		least, most := share(a.called, a.after), share(a.after, a.called)
		if a.deadline.Before(least) || a.deadline.After(most) {
			t.Errorf("attempt %d may take %s; want %s to %s", i+1, a.deadline.Sub(a.called), least.Sub(a.called), most.Sub(a.called))
		}
	}
}

func TestRefusedByTheRouterIsReset(t *testing.T) {
	cause := errors.New("nothing declared")
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Client: Client{Name: "web"}, Port: 80}, Fail(NoBinding, cause)
	}))
	l.dialRefused()
	r := l.record()
	l.wantReason(r, NoBinding)
	if !errors.Is(r.Err, cause) || r.Route.Client.Name != "web" || r.Route.Port != 80 {
		t.Errorf("record %+v; want the cause and what was known of the route", r)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	t.Run("of the endpoint", func(t *testing.T) {
		l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 5))
			_ = c.SetLinger(0)
		})))
		conn := l.dial()
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		wantReset(t, conn)
		l.wantReason(l.record(), EndpointGone)
	})
	t.Run("of the client", func(t *testing.T) {
		seen := make(chan error, 1)
		l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 5))
			_, _ = c.Write([]byte("x"))
			_, err := c.Read(make([]byte, 1))
			seen <- err
		})))
		conn := l.dial()
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetLinger(0)
		conn.Close()
		if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the endpoint reads %v; want a reset", err)
		}
		l.wantReason(l.record(), ClientGone)
	})
}

func TestWholeAnswerBeforeTheEndpointsReset(t *testing.T) {
	// An endpoint that answers without reading the request to its end resets
	// when it closes; what it said before must still arrive.
	answer := random(64 << 10)
	l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = c.Write(answer)
	})))
	conn := l.dial()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(answer))
	if _, err := io.ReadFull(conn, b); err != nil || !bytes.Equal(b, answer) {
		t.Errorf("read %v; want the whole answer", err)
	}
	conn.Close()
	l.record()
}

func TestDrainWaitsAndThenCuts(t *testing.T) {
	reached := make(chan struct{})
	l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
		close(reached)
		_, _ = io.Copy(c, c)
	})))
	conn := l.dial()
	<-reached
	l.stop()
	if _, err := net.Dial("tcp", l.addr.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new connection while draining: %v; want it refused", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	drained := make(chan struct{})
	go func() { defer close(drained); l.server.Drain(ctx) }()
	b := make([]byte, 5)
	if _, err := conn.Write([]byte("still")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "still" {
		t.Errorf("while draining the connection gives %q, %v; want it to go on", b, err)
	}
	select {
	case <-drained:
		t.Error("Drain returned although a connection lives")
	default:
	}
	cancel()
	<-drained
	wantReset(t, conn)
	l.wantReason(l.record(), DrainTimeout)
}

func TestDrainEndsWaitingForARoute(t *testing.T) {
	waiting := make(chan struct{})
	l := newLab(t, &Server{}, RouterFunc(func(ctx context.Context, _ *net.TCPConn) (Route, error) {
		close(waiting)
		<-ctx.Done()
		return Route{}, Fail(ResolveFailed, ctx.Err())
	}))
	conn := l.dial()
	<-waiting
	l.stop()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.server.Drain(ctx)
	wantReset(t, conn)
	l.wantReason(l.record(), DrainTimeout)
}

func TestClientThatLeavesBeforeItIsServed(t *testing.T) {
	waiting, left := make(chan struct{}), make(chan struct{})
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		close(waiting)
		<-left
		return Route{}, Fail(ResolveFailed, errors.New("registry is down"))
	}))
	conn := l.dial()
	<-waiting
	_ = conn.SetLinger(0)
	conn.Close() // on loopback the reset has arrived when Close returns
	close(left)
	l.wantReason(l.record(), ClientGone)
}

func TestSlowConnectionDelaysNoOther(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	good := backend(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("ok")) })
	var calls atomic.Int32
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		if calls.Add(1) == 1 {
			close(held)
			<-release
		}
		return Route{Endpoints: InOrder(good)}, nil
	}))
	hung := l.dial()
	<-held
	if b, err := l.read(l.dial()); err != nil || b != "ok" {
		t.Errorf("beside a hung connection another reads %q, %v; want ok", b, err)
	}
	_ = hung.SetLinger(0)
	hung.Close()
	close(release)
}

func TestOriginalDstWithoutRules(t *testing.T) {
	got := make(chan netip.AddrPort, 1)
	l := newLab(t, &Server{}, RouterFunc(func(_ context.Context, c *net.TCPConn) (Route, error) {
		dst, err := origdst.Of(c)
		if err != nil {
			t.Error(err)
		}
		got <- dst
		return Route{}, Fail(NoBinding, errors.New("none"))
	}))
	l.dialRefused()
	if dst := <-got; dst != l.addr {
		t.Errorf("origdst.Of = %s; want the local address %s", dst, l.addr)
	}
}
