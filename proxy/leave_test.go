package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// state is what connections must leave as it was.
type state struct {
	goroutines, sockets, pipes int
}

func stateNow(t *testing.T) (s state) {
	t.Helper()
	s.goroutines = runtime.NumGoroutine()
	for _, name := range descriptors(t) {
		switch {
		case strings.HasPrefix(name, "socket:"):
			s.sockets++
		case strings.HasPrefix(name, "pipe:"):
			s.pipes++
		}
	}
	return s
}

// wantBack waits until all is as it was, but for the pipes that are kept.
func (s state) wantBack(t *testing.T) {
	t.Helper()
	var now state
	defer func() {
		if t.Failed() {
			t.Logf("it was %+v and is %+v", s, now)
		}
	}()
	wait(t, "goroutines, sockets and pipes are back", func() bool {
		now = stateNow(t)
		return now.goroutines <= s.goroutines && now.sockets <= s.sockets && now.pipes <= max(s.pipes, 2*idlePipes)
	})
}

// A client that resets, wherever its connection is, leaves nothing behind and is
// logged as gone.
func TestResetsLeaveNothing(t *testing.T) {
	const clients = 50
	listener := listen(t)
	endpoint := Endpoint{Addr: listener.Addr().(*net.TCPAddr).AddrPort()}
	serving := make(chan struct{})
	go func() { // an echo
		defer close(serving)
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-serving })

	echoed := func(t *testing.T, conn *net.TCPConn) {
		t.Helper()
		mustWrite(t, conn, "hello")
		if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name string
		do   func(t *testing.T, conn *net.TCPConn, reached <-chan struct{})
		hold string // where the server waits until the client has gone
	}{
		{"while it is routed", func(_ *testing.T, _ *net.TCPConn, reached <-chan struct{}) { <-reached }, "route"},
		{"while the endpoint is dialled", func(_ *testing.T, _ *net.TCPConn, reached <-chan struct{}) { <-reached }, "dial"},
		{"when both ends are up", func(_ *testing.T, _ *net.TCPConn, reached <-chan struct{}) { <-reached }, "opened"},
		{"between messages", func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) { echoed(t, conn) }, ""},
		{"with an answer unread", func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
			mustWrite(t, conn, "hello")
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"half-closed by the endpoint", func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
			echoed(t, conn)
			_ = conn.CloseWrite()
		}, ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			reached, release := make(chan struct{}), make(chan struct{})
			holdAt := func(where string) {
				if where == step.hold {
					reached <- struct{}{}
					<-release
				}
			}
			l := newLab(t, &Server{
				Dial: func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
					holdAt("dial")
					return dialTCP(ctx, addr, &Options{})
				},
			}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
				holdAt("route")
				return Route{Endpoints: InOrder(endpoint), Opened: func(Verdict, func(error)) func() {
					holdAt("opened")
					return func() {}
				}}, nil
			}))
			before := stateNow(t)
			for range clients {
				conn := l.dial()
				step.do(t, conn, reached)
				socket.Reset(conn)
				if step.hold != "" {
					release <- struct{}{}
				}
				r := l.record()
				// One that had ended its stream may have been answered in full.
				answered := r.Err == nil && strings.HasPrefix(step.name, "half-closed")
				if ReasonOf(r.Err) != ClientGone && !answered {
					t.Fatalf("ended with %v, want the reason %s", r.Err, ClientGone)
				}
			}
			before.wantBack(t)
		})
	}
}

// Clients that are gone before anybody accepts them are carried to their end.
func TestResetsBeforeAccept(t *testing.T) {
	const clients = 100
	routed := errors.New("routed")
	listener := listen(t)
	before := stateNow(t)
	before.goroutines += ways.loops
	for range clients {
		conn, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
		if err != nil {
			t.Fatal(err)
		}
		socket.Reset(conn)
	}
	l := newLabAt(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{}, Fail(NoEndpoints, routed)
	}), listener)
	for range clients {
		l.wantReason(l.record(), ClientGone)
	}
	l.stop()
	before.wantBack(t)
}
