package proxy

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

var errDst = errors.New("the other side broke")

// take takes what src has and gives dst what it takes of it; the rest is stored. ended
// says that the stream has.
func (r *relay) take(d *stream, src, dst *side) (n int, ended bool, err error) {
	if src.flags&pressing != 0 && socket.AtMark(int(src.fd)) {
		return r.takeUrgent(d, src)
	}
	if d.bulky {
		if p, ok := pipes.get(); ok {
			return r.takeBulk(d, src, dst, p)
		}
		// A stream that fills the buffer is read on without an event, so none has told of an urgent byte
		// that has come since, and a read that begins with one passes it like any other.
		if socket.AtMark(int(src.fd)) {
			return r.takeUrgent(d, src)
		}
	}
	b := r.loop.buffer[:]
	n, err = socket.Receive(int(src.fd), b)
	if n == 0 {
		return nothing(src, err)
	}
	d.bulky = n == len(b)
	d.hurry(dst)
	// A short read was all there was: more would be another event. An urgent byte that
	// was there would have made it short, too.
	all := !d.bulky && src.flags&(hung|pressing) == 0
	last, more := all && src.flags&ending != 0, 0
	if last && src.flags&broken == 0 {
		more = unix.MSG_MORE // the end goes with it, in one segment (tcp_send_fin)
	}
	written, err := socket.Send(int(dst.fd), b[:n], more)
	if err != nil && err != unix.EAGAIN { //nolint:errorlint // an errno
		r.loop.broke = err
		return 0, false, errDst
	}
	d.bytes += int64(written)
	if written < n {
		d.store = storeOf(b[written:n])
	}
	if all {
		if last {
			return n, d.store == nil, nil
		}
		src.flags &^= readable
	}
	return n, false, nil
}

// storeOf stores bytes, of which there are no more than loopBuffer.
func storeOf(b []byte) *store {
	kept := buffers.Get().(*[bufferSize]byte)
	return &store{in: inMemory, buffer: kept, unsent: copy(kept[:], b)}
}

// hurry has dst send small segments at once from its second message on. The first goes at
// once in any case, and many an endpoint gets no other.
func (d *stream) hurry(dst *side) {
	if dst.flags&delaying != 0 && d.bytes > 0 {
		dst.flags &^= delaying
		socket.SetInt(int(dst.fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
}

// nothing is what take returns when a call took nothing from src.
func nothing(src *side, err error) (n int, ended bool, _ error) {
	if err == unix.EAGAIN { //nolint:errorlint // an errno
		src.flags &^= readable
		return 0, false, nil
	}
	return 0, err == nil, err
}

// takeBulk is take by splice(2), through an empty pipe.
func (r *relay) takeBulk(d *stream, src, dst *side, p pipe) (n int, ended bool, err error) {
	n, err = socket.Splice(int(src.fd), p.w, pipeSize)
	if n == 0 {
		pipes.put(p)
		// splice(2) does not pass an urgent byte: it says that there is nothing, or that
		// the stream has ended although bytes follow.
		if socket.AtMark(int(src.fd)) {
			return r.takeUrgent(d, src)
		}
		return nothing(src, err)
	}
	if n >= loopBuffer/2 {
		d.small = 0
	} else if d.small++; d.small == smallInARow {
		d.small, d.bulky = 0, false
	}
	d.hurry(dst)
	left := n
	for left > 0 {
		given, err := socket.Splice(p.r, int(dst.fd), left)
		if err == unix.EAGAIN { //nolint:errorlint // an errno
			d.store = &store{in: inPipe, pipe: p, unsent: left}
			return n, false, nil
		}
		if err != nil {
			pipes.drop(p)
			r.loop.broke = err
			return 0, false, errDst
		}
		left -= given
		d.bytes += int64(given)
	}
	pipes.put(p)
	return n, false, nil
}

// takeUrgent is take of one byte that the sender marked (RFC 9293 §3.8.5).
func (r *relay) takeUrgent(d *stream, src *side) (n int, ended bool, err error) {
	var b [1]byte
	n, err = socket.Receive(int(src.fd), b[:])
	if n == 0 {
		return nothing(src, err)
	}
	src.flags &^= pressing // the next one makes another event
	d.store = &store{in: urgent, urgent: b[0], unsent: 1}
	return n, false, nil
}

// giveStored gives dst what is stored, as far as it takes it.
func (r *relay) giveStored(d *stream, dst *side) error {
	s := d.store
	d.hurry(dst)
	for s.unsent > 0 {
		var n int
		var err error
		switch s.in {
		case inPipe:
			n, err = socket.Splice(s.pipe.r, int(dst.fd), s.unsent)
		case inMemory:
			n, err = socket.Send(int(dst.fd), s.buffer[s.given:s.given+s.unsent], 0)
			s.given += n
		case urgent:
			n, err = socket.Send(int(dst.fd), []byte{s.urgent}, unix.MSG_OOB)
		}
		if err == unix.EAGAIN { //nolint:errorlint // an errno
			return nil
		}
		if err != nil {
			return err
		}
		s.unsent -= n
		d.bytes += int64(n)
	}
	r.empty(d)
	return nil
}

// empty gives back what the bytes were stored in, and with them any that are left.
func (r *relay) empty(d *stream) {
	s := d.store
	if s == nil {
		return
	}
	d.store = nil
	switch {
	case s.in == inPipe && s.unsent > 0:
		pipes.drop(s.pipe)
	case s.in == inPipe:
		pipes.put(s.pipe)
	case s.in == inMemory:
		buffers.Put(s.buffer)
	}
}

// pipe is what splice(2) moves bytes through: from a socket into it, and out of it
// to the other. It takes two descriptors.
type pipe struct{ r, w int }

// pipes are the process's, as descriptors are.
var pipes pipePool

// pipePool hands out empty pipes. A direction holds one only between reading and
// having written, so there are about as many as there are bytes on their way at one
// moment: one for each thread, and one for each peer that does not take what it is
// sent. Those last are many on a bad day, so there is a bound, past which bytes are
// moved through memory instead.
type pipePool struct {
	mu   sync.Mutex
	most int // 0 until the first is made
	made int
	idle []pipe
}

const (
	idlePipes = 32      // kept for who comes next
	pipeSize  = 1 << 20 // bytes; what an unprivileged process may ask for (pipe(7))
	mostPipes = 1024
)

// get returns an empty pipe; false means there is none to be had.
func (p *pipePool) get() (pipe, bool) {
	p.mu.Lock()
	if last := len(p.idle) - 1; last >= 0 {
		taken := p.idle[last]
		p.idle = p.idle[:last]
		p.mu.Unlock()
		return taken, true
	}
	if p.most == 0 {
		p.most = affordablePipes()
	}
	if p.made >= p.most {
		p.mu.Unlock()
		return pipe{}, false
	}
	p.made++
	p.mu.Unlock()

	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		p.mu.Lock()
		p.made--
		p.mu.Unlock()
		return pipe{}, false
	}
	// A smaller one works, too: the kernel's for whom it has given enough to.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return pipe{r: fds[0], w: fds[1]}, true
}

// put takes back an empty pipe.
func (p *pipePool) put(empty pipe) {
	p.mu.Lock()
	if len(p.idle) < idlePipes {
		p.idle = append(p.idle, empty)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.drop(empty)
}

// drop takes back a pipe with bytes in it that nobody wants any more.
func (p *pipePool) drop(full pipe) {
	_ = unix.Close(full.r)
	_ = unix.Close(full.w)
	p.mu.Lock()
	p.made--
	p.mu.Unlock()
}

// affordablePipes keeps pipes to a 32nd part of the descriptors that the process may
// have: the rest are for connections.
func affordablePipes() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return mostPipes
	}
	const share = 32 * 2 // two descriptors each
	return int(max(1, min(limit.Cur/share, mostPipes)))
}

// buffers are for when there is no pipe.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

const bufferSize = 32 << 10
