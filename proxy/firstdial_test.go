package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// TestFirstBytesCompleteTheHandshake: where the client has spoken before its connection
// is accepted, the endpoint gets its bytes with the segment that makes the connection.
func TestFirstBytesCompleteTheHandshake(t *testing.T) {
	if !ways.nonBlocking {
		return // a router that takes its time makes the client's bytes late
	}
	came := make(chan uint32, 1)
	l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		came <- segments(t, c)
		_, _ = c.Write([]byte("y"))
		_, _ = io.Copy(io.Discard, c)
	})))
	conn := l.dialSpeaking(func(c *net.TCPConn) { mustWrite(t, c, "x") })
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := <-came; n != 2 {
		t.Errorf("the first byte came with segment %d, the SYN included; want 2", n)
	}
}

// dialSpeaking dials, and lets no loop accept the connection before speak has returned.
func (l *lab) dialSpeaking(speak func(*net.TCPConn)) *net.TCPConn {
	l.t.Helper()
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	l.t.Cleanup(release)
	for _, loop := range l.server.loops {
		loop.post(func() { <-gate })
	}
	conn := l.dial()
	speak(conn)
	release()
	return conn
}

// TestClientSpeaksFirst: what a client has sent before its connection is accepted comes to
// the endpoint that serves it, once, whatever becomes of the first attempt.
func TestClientSpeaksFirst(t *testing.T) {
	type endpoints func(t *testing.T, serving Endpoint) []Endpoint
	alone := func(_ *testing.T, serving Endpoint) []Endpoint { return []Endpoint{serving} }
	for _, test := range []struct {
		name string
		said []byte
		endpoints
	}{
		{"to an endpoint that answers", []byte("hello"), alone},
		{"more than is read at once", random(5 * loopBuffer), alone},
		{"to the second endpoint", random(loopBuffer), func(t *testing.T, serving Endpoint) []Endpoint {
			return []Endpoint{refused(t), serving}
		}},
		{"to the second endpoint, the first being silent", []byte("hello"), func(t *testing.T, serving Endpoint) []Endpoint {
			return []Endpoint{busy(t), serving}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			heard := make(chan []byte, 1)
			l := newLab(t, &Server{}, to(test.endpoints(t, backend(t, func(c *net.TCPConn) {
				all, _ := io.ReadAll(c)
				heard <- all
				_, _ = c.Write([]byte("bye"))
			}))...))
			conn := l.dialSpeaking(func(c *net.TCPConn) {
				mustWrite(t, c, string(test.said))
				_ = c.CloseWrite()
			})
			if answer, err := l.read(conn); err != nil || answer != "bye" {
				t.Errorf("the client gets %q, %v", answer, err)
			}
			if got := <-heard; !bytes.Equal(got, test.said) {
				t.Errorf("the endpoint gets %d bytes, which are not the %d that were sent", len(got), len(test.said))
			}
			if r := l.record(); r.Err != nil || r.Up != int64(len(test.said)) || r.Down != 3 {
				t.Errorf("record: %d bytes up and %d down, %v; want %d and 3", r.Up, r.Down, r.Err, len(test.said))
			}
		})
	}
}

// TestClientSpeaksToSlowEndpoint: likewise if the endpoint takes a while to answer.
func TestClientSpeaksToSlowEndpoint(t *testing.T) {
	endpoint, accept := atLast(t)
	l := newLab(t, &Server{}, to(endpoint))
	conn := l.dialSpeaking(func(c *net.TCPConn) { mustWrite(t, c, "hello") })
	served := accept()
	mustWrite(t, conn, " again")
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(served); err != nil || string(got) != "hello again" {
		t.Errorf("the endpoint gets %q, %v", got, err)
	}
	mustWrite(t, served, "bye")
	served.Close()
	if answer, err := l.read(conn); err != nil || answer != "bye" {
		t.Errorf("the client gets %q, %v", answer, err)
	}
	if r := l.record(); r.Err != nil || r.Up != 11 {
		t.Errorf("record: %d bytes up, %v; want 11", r.Up, r.Err)
	}
}

// TestClientSpeaksAndLeaves: what it has sent is nobody's any more when it resets.
func TestClientSpeaksAndLeaves(t *testing.T) {
	endpoint, _ := atLast(t)
	l := newLab(t, &Server{}, to(endpoint))
	conn := l.dialSpeaking(func(c *net.TCPConn) { mustWrite(t, c, "hello") })
	_ = conn.SetLinger(0)
	conn.Close()
	l.wantReason(l.record(), ClientGone)
}

// TestUrgentFirst: a byte that is urgent stays so, be it the first.
func TestUrgentFirst(t *testing.T) {
	marked := make(chan []bool, 1)
	l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
		wait(t, "all is there", func() bool {
			there := 0
			onSocket(t, c, func(fd int) {
				socket.KeepUrgentInLine(fd)
				there, _ = unix.IoctlGetInt(fd, unix.SIOCINQ)
			})
			return there == 3
		})
		var marks []bool
		for range 3 {
			onSocket(t, c, func(fd int) { marks = append(marks, socket.AtMark(fd)) })
			_, _ = io.ReadFull(c, make([]byte, 1))
		}
		marked <- marks
	})))
	conn := l.dialSpeaking(func(c *net.TCPConn) {
		onSocket(t, c, func(fd int) { _, _ = unix.SendmsgN(fd, []byte("!"), nil, nil, unix.MSG_OOB) })
		mustWrite(t, c, "ab")
	})
	if got := <-marked; !slices.Equal(got, []bool{true, false, false}) {
		t.Errorf("the bytes that are marked: %v; want the first alone", got)
	}
	conn.Close()
	l.record()
}

// busy is an endpoint that answers no more connections.
func busy(t *testing.T) Endpoint {
	endpoint, _ := atLast(t)
	return endpoint
}

// atLast is an endpoint that does not answer before accept is called, which returns
// the connection then.
func atLast(t *testing.T) (endpoint Endpoint, accept func() *net.TCPConn) {
	t.Helper()
	listener := listen(t)
	raw, err := listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().(*net.TCPAddr)
	filling, err := net.DialTCP("tcp", nil, addr) // one is what a queue of none has room for
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { filling.Close() })
	return Endpoint{Addr: addr.AddrPort(), Name: "busy"}, func() *net.TCPConn {
		t.Helper()
		synSent := fmt.Sprintf(" 0100007F:%04X 02 ", addr.Port) // 127.0.0.1, and the state (proc_pid_net(5))
		wait(t, "somebody is connecting", func() bool {
			table, err := os.ReadFile("/proc/self/net/tcp")
			return err == nil && strings.Contains(string(table), synSent)
		})
		for range 2 {
			conn, err := listener.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			if conn.RemoteAddr().String() != filling.LocalAddr().String() {
				return conn
			}
		}
		t.Fatal("nobody came")
		return nil
	}
}

// TestEndpointSpeaksFirst: an endpoint hears of a client that has yet to speak at once,
// not by the kernel's delayed acknowledgement, after 200 ms.
func TestEndpointSpeaksFirst(t *testing.T) {
	const delayed = 200 * time.Millisecond
	var took time.Duration
	for range 5 { // a busy machine may be slow now and then
		l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
			_, _ = c.Write([]byte("x"))
			_, _ = io.Copy(io.Discard, c)
		})))
		began := time.Now()
		if _, err := io.ReadFull(l.dial(), make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took = time.Since(began); took < delayed {
			return
		}
	}
	t.Errorf("the endpoint's first byte took %s; want less than %s", took, delayed)
}

// forbidding is a Chooser whose client may dial nobody.
type forbidding struct{ why error }

func (forbidding) TryRefresh() bool              { return true }
func (forbidding) Refresh(context.Context) error { return nil }
func (forbidding) Next() (Attempt, bool)         { return Attempt{}, false }
func (forbidding) Changed(ctx context.Context)   { <-ctx.Done() }
func (f forbidding) PassedOver() error           { return Fail(Denied, f.why) }

// TestNobodyToDialHoweverOldTheServerIs: the time to look for an endpoint begins with the
// connection, also if the first attempt is none.
func TestNobodyToDialHoweverOldTheServerIs(t *testing.T) {
	why := errors.New("the client may not reach it")
	router := routed(forbidding{why}, Options{Timeout: time.Minute, Wait: time.Minute}).(RouterFunc)
	l := newLab(t, &Server{}, nonBlocking{router})
	for _, loop := range l.server.loops {
		aged := make(chan struct{})
		loop.post(func() { loop.began = loop.began.Add(-time.Hour); close(aged) })
		<-aged
	}
	l.dialRefused()
	r := l.record()
	l.wantReason(r, Denied)
	if !errors.Is(r.Err, why) || r.Duration > time.Minute {
		t.Errorf("%v, after %s; want %v, at once", r.Err, r.Duration, why)
	}
}
