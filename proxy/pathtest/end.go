package pathtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each step of a script; none takes time when it works.
const patience = 15 * time.Second

// end is one side of a connection, and what it has seen. What it sends is the
// beginning of an endless stream of its own, so that the other side knows what must
// come next.
type end struct {
	t    *testing.T
	name string
	conn *net.TCPConn
	raw  syscall.RawConn
	peer *end

	stream  []byte // repeated
	sent    int    // bytes
	got     int    // bytes
	seen    []string
	sending sync.WaitGroup
}

func newEnd(t *testing.T, name string, conn *net.TCPConn) *end {
	t.Helper()
	e := &end{t: t, name: name, conn: conn, stream: streams[name]}
	var err error
	if e.raw, err = conn.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return e
}

// streams are of a length that no size of a buffer divides.
var streams = map[string][]byte{"client": random(1), "endpoint": random(2)}

func random(seed byte) []byte {
	b := make([]byte, 1<<20-3)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// saw writes down what this side sees.
func (e *end) saw(format string, args ...any) {
	e.seen = append(e.seen, fmt.Sprintf(format, args...))
}

// how an operation ended, in one word.
func how(err error) string {
	switch {
	case err == nil:
		return "well"
	case errors.Is(err, unix.Errno(0)):
		return "no error"
	case errors.Is(err, io.EOF):
		return "end"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.EPIPE):
		return "broken pipe"
	case errors.Is(err, syscall.ENOTCONN):
		return "not connected"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "NOTHING CAME"
	}
	return err.Error()
}

// check fails the test for what must not happen on any path.
func (e *end) check(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		e.t.Errorf("the %s waits in vain after %q", e.name, e.seen)
	}
	return err
}

// next returns the n bytes of the stream at offset.
func (e *end) next(offset, n int) []byte {
	offset %= len(e.stream)
	return e.stream[offset:min(offset+n, len(e.stream))]
}

// send sends n bytes.
func (e *end) send(n int) {
	for left := n; left > 0; {
		w, err := e.conn.Write(e.next(e.sent, left))
		e.sent += w
		left -= w
		if e.check(err) != nil {
			e.saw("sending: %s", how(err))
			return
		}
	}
	e.saw("sent %d", n)
}

// sendMeanwhile sends n bytes while the script goes on; wait waits for that. Whether
// it came to an end is not seen.
func (e *end) sendMeanwhile(n int) (wait func()) {
	e.sending.Go(func() {
		for left := n; left > 0; {
			w, err := e.conn.Write(e.next(e.sent, left))
			e.sent += w
			left -= w
			if err != nil {
				return
			}
		}
	})
	return e.sending.Wait
}

// sendPieces sends n bytes in writes of one to seven.
func (e *end) sendPieces(n int) {
	for left, size := n, 1; left > 0; size = size%7 + 1 {
		w, err := e.conn.Write(e.next(e.sent, min(size, left)))
		e.sent += w
		left -= w
		if e.check(err) != nil {
			e.saw("sending pieces: %s", how(err))
			return
		}
	}
	e.saw("sent %d in pieces", n)
}

// read reads up to n bytes and compares them with what the peer sent.
func (e *end) read(n int) (got int, err error) {
	const most = 256 << 10
	b := make([]byte, min(n, most))
	for got < n && err == nil {
		var r int
		r, err = e.conn.Read(b[:min(len(b), n-got)])
		for rest := b[:r]; len(rest) > 0; {
			want := e.peer.next(e.got, len(rest))
			if !bytes.Equal(rest[:len(want)], want) {
				e.t.Errorf("the %s reads other bytes than were sent, after %d", e.name, e.got)
				return got, errors.New("other bytes")
			}
			e.got += len(want)
			rest = rest[len(want):]
		}
		got += r
	}
	return got, e.check(err)
}

// receive reads n bytes.
func (e *end) receive(n int) {
	got, err := e.read(n)
	if got < n {
		e.saw("got %d of %d: %s", got, n, how(err))
		return
	}
	e.saw("got %d", n)
}

// receiveAll reads until the end of whatever kind.
func (e *end) receiveAll() {
	got, err := e.read(1 << 62)
	e.saw("got %d and then: %s", got, how(err))
}

// receiveAtLeast reads until the end and demands n bytes; how many more there are is
// not seen.
func (e *end) receiveAtLeast(n int) {
	_, err := e.read(1 << 62)
	if e.got < n {
		e.saw("got %d, less than the %d that were acknowledged: %s", e.got, n, how(err))
		return
	}
	e.saw("got what was acknowledged, and then: %s", how(err))
}

// close closes as most programs do: the kernel sends a FIN, or a RST when something
// has come that was not read.
func (e *end) close() { _ = e.conn.Close() }

// reset closes with a RST.
func (e *end) reset() {
	_ = e.conn.SetLinger(0)
	_ = e.conn.Close()
}

// halfClose ends what this side sends.
func (e *end) halfClose() {
	if err := e.conn.CloseWrite(); err != nil {
		e.saw("half-close: %s", how(err))
	}
}

// broken waits until the connection is broken, without reading or writing, and
// says how a program learns of that.
func (e *end) broken() {
	if !e.comesToItsEnd() {
		return
	}
	var errno int
	_ = e.raw.Control(func(fd uintptr) { errno, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) })
	e.saw("broken: %s", how(unix.Errno(errno)))
}

// comesToItsEnd waits until the connection is broken and leaves the error, and what
// has come before, where they are.
func (e *end) comesToItsEnd() bool {
	err := e.raw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		const closed = 7 // tcp(7)
		return err != nil || info.State == closed
	})
	if e.check(err) != nil {
		e.saw("waits to be broken: %s", how(err))
		return false
	}
	return true
}

// until asks about the socket again and again: the kernel wakes nobody for these.
func (e *end) until(what string, done func(fd int) bool) {
	var yes bool
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		if err := e.raw.Control(func(fd uintptr) { yes = done(int(fd)) }); err != nil {
			e.saw("%s: %s", what, how(err))
			return
		}
		if yes {
			return
		}
		if time.Now().After(deadline) {
			e.t.Errorf("the %s waits in vain: %s", e.name, what)
			return
		}
	}
}

// acknowledged waits until the next kernel has all that was sent.
func (e *end) acknowledged() {
	e.until("all is acknowledged", func(fd int) bool {
		n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err != nil || n == 0
	})
}

// arrived waits until all that the peer sent is here, read or not.
func (e *end) arrived() {
	want := uint64(e.peer.sent)
	e.until(fmt.Sprintf("all %d bytes are here", want), func(fd int) bool {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err != nil || info.Bytes_received >= want
	})
}
