package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// A side that is gone is not waited for because the other takes nothing, whether or
// not that one sends.
func TestGoneWhileTheOtherTakesNothing(t *testing.T) {
	for name, sends := range map[string]bool{"it is silent": false, "it sends": true} {
		t.Run(name, func(t *testing.T) {
			s := relayWith(t, t.Context(), limits{Stall: 200 * time.Millisecond})
			block(t, s.client)
			socket.Reset(s.client)
			if sends { // unless it has been reset already
				_, _ = io.WriteString(s.endpoint, "x")
			}
			if r := s.wait(t); ReasonOf(r.Err) != ClientGone {
				t.Errorf("ended with %v, want the reason %s", r.Err, ClientGone)
			}
			if !socket.Gone(s.endpoint) {
				t.Error("the endpoint has not been reset")
			}
		})
	}
}

// A side that takes its time gets all that came before the other's reset.
func TestGoneWhileTheOtherIsSlow(t *testing.T) {
	const stall = 2 * time.Second
	s := relayWith(t, t.Context(), limits{Stall: stall})
	if err := s.endpoint.SetDeadline(time.Now().Add(6 * patience)); err != nil {
		t.Fatal(err)
	}
	sent := block(t, s.client)
	socket.Reset(s.client)
	began := time.Now()
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, slowReader{s.endpoint, stall / 10}, make([]byte, sent/50))
	if took := time.Since(began); took < 2*stall {
		t.Fatalf("it was read within %s, too fast to show anything", took)
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%v at the end, want the reset", err)
	}
	r := s.wait(t)
	if ReasonOf(r.Err) != ClientGone {
		t.Errorf("ended with %v, want the reason %s", r.Err, ClientGone)
	}
	if got != r.Up {
		t.Errorf("the endpoint read %d bytes of %d that were passed on", got, r.Up)
	}
}

// slowReader pauses before each read, which fills its buffer.
type slowReader struct {
	io.Reader
	pause time.Duration
}

func (r slowReader) Read(b []byte) (int, error) {
	time.Sleep(r.pause)
	n, err := io.ReadFull(r.Reader, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// TestResetWithTheLastBytes: a reset is followed up, too, that came together with bytes
// for which the other side has no room.
func TestResetWithTheLastBytes(t *testing.T) {
	listener := listen(t)
	onSocket(t, listener, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil { // the least there is
			t.Error(err)
		}
	})
	server := &Server{}
	server.Dial = func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
		conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
		if err == nil {
			err = conn.SetWriteBuffer(1)
		}
		return conn, err
	}
	l := newLab(t, server, to(Endpoint{Addr: listener.Addr().(*net.TCPAddr).AddrPort(), Name: "backend"}))
	conn := l.dial()
	endpoint, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer endpoint.Close()
	mustWrite(t, endpoint, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// Held up until both the bytes and the reset are there.
	release := holdLoops(t, server, func(r *relay) { r.extra().bounds.Stall = 200 * time.Millisecond })
	if _, err := conn.Write(make([]byte, 32<<10)); err != nil { // what the proxy's kernel takes
		t.Fatal(err)
	}
	socket.Reset(conn)
	release()
	l.wantReason(l.record(), ClientGone)
}
