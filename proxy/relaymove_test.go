package proxy

import (
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

// TestEndGoesWithTheLastBytes: an end that is there together with the last bytes goes on
// in the same segment.
func TestEndGoesWithTheLastBytes(t *testing.T) {
	answer, answered := make(chan struct{}), make(chan *net.TCPConn, 1)
	server := &Server{}
	l := newLab(t, server, to(backend(t, func(c *net.TCPConn) {
		_, _ = io.CopyN(c, c, 1)
		<-answer
		_, _ = c.Write([]byte("the answer"))
		_ = c.CloseWrite()
		answered <- c
		_, _ = io.Copy(io.Discard, c)
	})))
	conn := begin(t, l)
	release := holdLoops(t, server, func(*relay) {}) // or else one may see the answer before its end
	close(answer)
	sockettest.Acked(t, <-answered) // and so has the end arrived
	before := segments(t, conn)
	release()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "the answer" {
		t.Fatalf("read %q, %v; want the answer", b, err)
	}
	if n := segments(t, conn) - before; n != 1 {
		t.Errorf("the answer and the end came in %d segments; want 1", n)
	}
	conn.Close()
	if r := l.record(); r.Err != nil {
		t.Errorf("record %+v; want a clean end", r)
	}
}

// begin dials, and has one byte come back.
func begin(t *testing.T, l *lab) *net.TCPConn {
	t.Helper()
	conn := l.dial()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// segments is how many segments have come from the peer.
func segments(t *testing.T, conn *net.TCPConn) (n uint32) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Error(err)
			return
		}
		n = info.Segs_in
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBulkHasItsTurn: when the turn of bulk is over nothing of it is moved until the loop has
// looked for events, and then it is, in a turn of its own.
func TestBulkHasItsTurn(t *testing.T) {
	server := &Server{}
	l := newLab(t, server, to(backend(t, func(c *net.TCPConn) {
		_, _ = io.CopyN(c, c, 1)
		_, _ = io.Copy(io.Discard, c)
	})))
	conn := begin(t, l)
	const bulk = 32 << 10
	release := holdLoops(t, server, func(r *relay) {
		if _, err := conn.Write(make([]byte, bulk)); err != nil {
			t.Error(err)
		}
		sockettest.Acked(t, conn) // it has arrived
		r.up.bulky = true
		r.client.flags |= readable
		r.loop.until = r.loop.clock()
		before := r.up.bytes
		if !r.move(&r.up) || r.up.bytes != before || !r.isAgain {
			t.Errorf("%d bytes were moved after the turn of bulk, to go on: %v; want none, and that it goes on", r.up.bytes-before, r.isAgain)
		}
		for r.isAgain { // once, unless the machine has no time for us
			r.loop.resume()
		}
		if moved := r.up.bytes - before; moved != bulk {
			t.Errorf("%d bytes were moved in turns of their own; want all %d", moved, bulk)
		}
	})
	release()
	conn.Close()
	if r := l.record(); r.Err != nil {
		t.Errorf("record %+v; want a clean end", r)
	}
}
