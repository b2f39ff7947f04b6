package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/proxy/internal/replay"
)

// quitter reads n bytes and then leaves without an answer.
func quitter(t *testing.T, n int, leave func(*net.TCPConn)) Endpoint {
	t.Helper()
	e := backend(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, n))
		leave(c)
	})
	e.Name = "quitter"
	return e
}

func byReset(c *net.TCPConn) { _ = c.SetLinger(0) }
func byEnd(c *net.TCPConn)   { _ = c.CloseWrite() }

// echoer answers with all that it is sent, once the first n bytes have come.
func echoer(t *testing.T, n int) Endpoint {
	t.Helper()
	e := backend(t, func(c *net.TCPConn) {
		first := make([]byte, n)
		_, _ = io.ReadFull(c, first)
		_, _ = c.Write(first)
		_, _ = io.Copy(c, c)
	})
	e.Name = "echoer"
	return e
}

func replaying(c Chooser) Router { return routed(c, Options{Replay: true, Wait: patience}) }

func TestReplayedBeforeTheFirstByte(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn){"reset": byReset, "end": byEnd} {
		for name, ends := range map[string]bool{name + ", the client goes on": false, name + ", the client has ended": true} {
			t.Run(name, func(t *testing.T) {
				c := newCrowd(quitter(t, 7, leave), refused(t), echoer(t, 7))
				l := newLab(t, &Server{}, replaying(c))
				conn := l.dial()
				if _, err := conn.Write([]byte("request")); err != nil {
					t.Fatal(err)
				}
				rest := ""
				if ends {
					_ = conn.CloseWrite()
				}
				first := make([]byte, 7)
				if _, err := io.ReadFull(conn, first); err != nil || string(first) != "request" {
					t.Fatalf("read %q, %v; want the next endpoint's answer to the same request", first, err)
				}
				if !ends {
					if c := l.server.Carried(); len(c) != 1 || c[0].Up != 7 || c[0].Down != 7 {
						t.Errorf("carried is %+v; want one connection, with the 7 bytes each way so far", c)
					}
					rest = ", and more"
					if _, err := conn.Write([]byte(rest)); err != nil {
						t.Fatal(err)
					}
					_ = conn.CloseWrite()
				}
				if b, err := l.read(conn); err != nil || b != rest {
					t.Errorf("and then %q, %v; want %q", b, err, rest)
				}
				r := l.record()
				if want := int64(len("request" + rest)); r.Err != nil || r.Up != want || r.Down != want || r.Attempts != 3 || r.Endpoint.Name != "echoer" {
					t.Errorf("record %+v; want %d bytes each way with the third endpoint", r, want)
				}
				if got := strings.Join(c.says(), ", "); got != "quitter opened, quitter reset before a byte, refused failed, echoer opened, echoer closed" {
					t.Errorf("told: %s", got)
				}
			})
		}
	}
}

func TestNotReplayedUnlessAsked(t *testing.T) {
	l := newLab(t, &Server{}, routed(newCrowd(quitter(t, 7, byReset), echoer(t, 7)), Options{}))
	conn := l.dial()
	if _, err := conn.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	wantReset(t, conn)
	l.wantReason(l.record(), EndpointGone)
}

func TestTooMuchIsNotReplayed(t *testing.T) {
	request := random(replay.Most + 1)
	l := newLab(t, &Server{}, replaying(newCrowd(quitter(t, len(request), byReset), echoer(t, 1))))
	conn := l.dial()
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	wantReset(t, conn)
	l.wantReason(l.record(), EndpointGone)
}

func TestReplayDelaysNothing(t *testing.T) {
	t.Run("an endpoint that speaks first", func(t *testing.T) {
		l := newLab(t, &Server{}, replaying(newCrowd(greeter(t))))
		if b, err := l.read(l.dial()); err != nil || b != "hello" {
			t.Errorf("read %q, %v", b, err)
		}
		l.record()
	})
	t.Run("a long conversation", func(t *testing.T) {
		l := newLab(t, &Server{}, replaying(newCrowd(echoer(t, 1))))
		conn, sent := l.dial(), random(3<<20)
		go func() {
			_, _ = conn.Write(sent)
			_ = conn.CloseWrite()
		}()
		if b, err := io.ReadAll(conn); err != nil || !bytes.Equal(b, sent) {
			t.Errorf("read %d bytes, %v; want all %d as they were sent", len(b), err, len(sent))
		}
		conn.Close()
		if r := l.record(); r.Up != int64(len(sent)) || r.Down != int64(len(sent)) || r.Err != nil {
			t.Errorf("record %+v; want %d bytes each way", r, len(sent))
		}
	})
	t.Run("an endpoint that reads nothing before it answers", func(t *testing.T) {
		l := newLab(t, &Server{}, replaying(newCrowd(greeter(t))))
		conn := l.dial()
		if _, err := conn.Write(random(replay.Most - 1)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "hello" {
			t.Errorf("read %q, %v", b, err)
		}
		conn.Close()
		l.record()
	})
}

func TestClientLeavesBeforeTheFirstByte(t *testing.T) {
	reached := make(chan struct{})
	silent := backend(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 7))
		close(reached)
		_, _ = io.Copy(io.Discard, c)
	})
	c := newCrowd(silent, echoer(t, 1))
	l := newLab(t, &Server{}, replaying(c))
	conn := l.dial()
	if _, err := conn.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	<-reached
	_ = conn.SetLinger(0)
	conn.Close()
	l.wantReason(l.record(), ClientGone)
	if got := strings.Join(c.says(), ", "); got != "backend opened, backend closed" {
		t.Errorf("told: %s; it is not the endpoint's failure", got)
	}
}

func TestReplayEnds(t *testing.T) {
	t.Run("when nobody answers", func(t *testing.T) {
		const wait = 100 * time.Millisecond
		l := newLab(t, &Server{}, routed(newCrowd(serving(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			byReset(c)
		})), Options{Replay: true, Wait: wait}))
		conn := l.dial()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		wantReset(t, conn)
		r := l.record()
		l.wantReason(r, DialFailed)
		if r.Duration < wait {
			t.Errorf("gave up after %s; want it held for %s", r.Duration, wait)
		}
	})
	t.Run("when the daemon stops", func(t *testing.T) {
		reached := make(chan struct{})
		l := newLab(t, &Server{}, replaying(newCrowd(backend(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			close(reached)
			_, _ = io.Copy(io.Discard, c)
		}))))
		conn := l.dial()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		<-reached
		l.stop()
		l.server.init()
		l.server.expire(errDrained)
		wantReset(t, conn)
		if r := l.record(); !errors.Is(r.Err, errDrained) {
			t.Errorf("ended with %v; want %v", r.Err, errDrained)
		}
	})
}
