package proxy

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// direction is one of the two streams of a connection. Its bytes go by splice(2),
// from the socket into a pipe and out of it. io.Copy would do that, too, but holds
// a pipe while it waits for src, so that an idle connection would cost six
// descriptors instead of two; does not say which of the two sockets broke; and
// stops at urgent data. All that is made here is made once: a byte that moves
// allocates nothing.
type direction struct {
	pair       *pair
	opposite   *direction
	src, dst   *net.TCPConn
	srcRaw     syscall.RawConn
	dstRaw     syscall.RawConn
	takeNow    func(fd uintptr) bool // take and give as the network poller wants them
	giveNow    func(fd uintptr) bool
	finished   atomic.Bool // the end of src's stream has been, or is being, passed on
	bytes      int64       // passed on
	held       int         // bytes taken and not yet given
	err        error       // of the last call
	in         bufferKind  // where they are
	pipe       pipe
	buffer     *[bufferSize]byte
	given      int // of the buffer
	urgentByte [1]byte

	looking     bool  // a write deadline is set
	takenBefore int64 // when it was set
	stalled     bool  // dst takes nothing
}

// bufferKind is where the bytes are that have been taken and not yet given.
type bufferKind int

const (
	inPipe   bufferKind = iota + 1
	inMemory            // there was no pipe
	urgent              // one byte that the sender marked (RFC 9293 §3.8.5)
)

// init readies the direction. One that is over only watches src.
func (d *direction) init(p *pair, opposite *direction, src, dst *net.TCPConn, over bool) {
	d.pair, d.opposite, d.src, d.dst = p, opposite, src, dst
	d.srcRaw, _ = src.SyscallConn() // never fails on what was accepted or dialled
	d.dstRaw, _ = dst.SyscallConn()
	d.takeNow, d.giveNow = d.take, d.give
	d.finished.Store(over)
	// An urgent byte is to stay at its place in the stream, from where take passes it
	// on; else the kernel would keep it apart, and not wake us for it.
	_ = d.srcRaw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // fails only if src is closed already
	})
}

// copy passes src's stream on to dst, and its end. It returns which of the two
// broke, nil for a clean end.
func (d *direction) copy() (broken *net.TCPConn, err error) {
	for {
		d.held, d.err = 0, nil
		if err := d.srcRaw.Read(d.takeNow); err != nil {
			return d.src, err
		}
		if d.err != nil {
			return d.src, d.err
		}
		if d.held == 0 {
			break
		}
		broken, err := d.giveAll()
		d.letGo()
		if err != nil {
			return broken, err
		}
	}
	// A reset looks like an end when a failed write of the other direction has used
	// up its error. It is none if we had ended our stream: nothing was written since.
	if gone(d.src) && !d.opposite.finished.Load() {
		_ = d.srcRaw.Control(func(fd uintptr) {
			if endedFirst(int(fd)) {
				d.finished.Store(true)
				_ = d.dst.CloseWrite() // it may be gone, too
			}
		})
		return d.src, unix.ECONNRESET
	}
	d.finished.Store(true)
	if err := d.dst.CloseWrite(); err != nil {
		return d.dst, err
	}
	return nil, nil
}

// giveAll waits until dst has taken what is held. Meanwhile nobody reads src, and so
// nobody would see that it is reset: while dst takes nothing it looks after that. What dst
// has not taken before the look that finds the reset is not held against it.
func (d *direction) giveAll() (broken *net.TCPConn, err error) {
	for srcGone := false; ; {
		err := d.dstRaw.Write(d.giveNow)
		switch {
		case err == nil && d.err == nil:
			return nil, nil
		case err == nil:
			return d.dst, d.err
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return d.dst, err
		case srcGone && d.taken() == d.takenBefore:
			d.stalled = true
			return d.src, unix.ECONNRESET
		}
		srcGone = gone(d.src)
		d.looking = false
		_ = d.dst.SetWriteDeadline(time.Time{})
	}
}

// take takes what src has. It reports false if that is nothing yet, and then holds
// nothing while the poller waits. At the end of the stream held stays 0.
func (d *direction) take(fd uintptr) bool {
	pipe, ok := pipes.get()
	if !ok {
		return d.takeToMemory(int(fd))
	}
	n, err := splicePart(int(fd), pipe.w, pipeSize)
	if n > 0 {
		d.pipe, d.in, d.held = pipe, inPipe, n
		return true
	}
	pipes.put(pipe)
	// splice(2) does not pass an urgent byte: it says that there is nothing, or that
	// the stream has ended although bytes follow.
	if atMark(int(fd)) {
		if n, markErr := readPart(int(fd), d.urgentByte[:]); n > 0 {
			d.in, d.held = urgent, n
			return true
		} else if err == nil {
			err = markErr
		}
	}
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	d.err = err
	return true
}

// takeToMemory is take where there is no pipe.
func (d *direction) takeToMemory(fd int) bool {
	var n int
	var err error
	if atMark(fd) {
		n, err = readPart(fd, d.urgentByte[:])
		d.in = urgent
	} else {
		d.buffer = buffers.Get().(*[bufferSize]byte)
		n, err = readPart(fd, d.buffer[:])
		d.in, d.given = inMemory, 0
	}
	if n > 0 {
		d.held = n
		return true
	}
	d.letGo()
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	d.err = err
	return true
}

// give gives dst what is held. It reports false while dst takes no more.
func (d *direction) give(fd uintptr) bool {
	for d.held > 0 {
		var n int
		var err error
		switch d.in {
		case inPipe:
			n, err = splicePart(d.pipe.r, int(fd), d.held)
		case inMemory:
			n, err = writePart(int(fd), d.buffer[d.given:d.given+d.held], 0)
			d.given += max(n, 0)
		case urgent:
			n, err = writePart(int(fd), d.urgentByte[:], unix.MSG_OOB)
		}
		if err != nil {
			if errors.Is(err, unix.EAGAIN) {
				d.lookLater(int(fd))
				return false
			}
			d.err = err
			return true
		}
		d.held -= n
		d.bytes += int64(n)
	}
	return true
}

// lookLater has giveAll woken once. The deadline is left to pass, whatever comes
// before, so that it costs next to nothing however often dst makes us wait.
func (d *direction) lookLater(fd int) {
	if d.looking {
		return
	}
	waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return // dst is closed already, and nobody will wait
	}
	d.looking, d.takenBefore = true, d.bytes-int64(waiting)
	_ = d.dst.SetWriteDeadline(time.Now().Add(d.pair.stall))
}

// taken is how many bytes dst's peer has acknowledged.
func (d *direction) taken() int64 {
	waiting, err := unacknowledged(d.dst)
	if err != nil {
		return 0
	}
	return d.bytes - int64(waiting)
}

// letGo gives back what the bytes were held in.
func (d *direction) letGo() {
	switch {
	case d.in == inPipe && d.held > 0:
		pipes.drop(d.pipe)
	case d.in == inPipe:
		pipes.put(d.pipe)
	case d.in == inMemory:
		buffers.Put(d.buffer)
		d.buffer = nil
	}
	d.in = 0
}

// splicePart, readPart and writePart are the calls of these names, again when a
// signal came in between.

func splicePart(from, to, most int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err == unix.EINTR {
			continue
		}
		return int(n), err
	}
}

func readPart(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		return n, err
	}
}

func writePart(fd int, b []byte, flags int) (int, error) {
	for {
		n, err := unix.SendmsgN(fd, b, nil, nil, flags|unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		return n, err
	}
}
