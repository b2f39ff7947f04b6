package load

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// chunk is what streams move at a time; it stays in the processor's cache.
const chunk = 256 << 10

// stall is how long nothing may move before a load gives up: a proxy that hangs is a
// result, not a reason to wait.
const stall = 5 * time.Second

// stream writes to, or reads from, all connections as fast as they go.
func stream(s Spec) (r Result, err error) {
	fds, err := dialAll(s.Conns, s.To)
	if err != nil {
		return r, err
	}
	p, err := newPoller()
	if err != nil {
		return r, err
	}
	events, move := uint32(unix.EPOLLIN), read
	if s.Kind == Up {
		events, move = unix.EPOLLOUT, write
	}
	for _, fd := range fds {
		if err := p.add(fd, events); err != nil {
			return r, err
		}
	}
	buffer := make([]byte, chunk)
	w := newWindow(s)
	err = w.watch(p, &r, "nothing has moved", func(fd int) (moved bool, err error) {
		n, errno := move(fd, buffer)
		switch {
		case n > 0:
			if w.open {
				r.Bytes += int64(n)
			}
			return true, nil
		case n < 0 && again(errno):
			return false, nil
		}
		return false, fmt.Errorf("a stream ended: %w", cmpErr(errnoOf(errno), unix.EPIPE))
	})
	return r, err
}

// watch tells each of every event until the window is over, and closes that into r. each says
// whether anything has moved; if nothing does for too long, the error begins with still.
func (w *window) watch(p *poller, r *Result, still string, each func(fd int) (moved bool, err error)) error {
	last := time.Now()
	for {
		happened := p.wait(20 * time.Millisecond)
		now := time.Now()
		if w.at(now) {
			return w.close(r)
		}
		for _, event := range happened {
			moved, err := each(int(event.Fd))
			if err != nil {
				return err
			}
			if moved {
				last = now
			}
		}
		if now.Sub(last) > stall {
			return fmt.Errorf("%s for %s", still, stall)
		}
	}
}

func errnoOf(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// exchange is one connection that asks: what is left of the answer, and since when.
type exchange struct {
	since time.Time
	left  int // bytes of the answer to come
	ready bool
}

// ask sends a request on each connection and the next one as soon as the answer is
// complete.
func ask(s Spec) (r Result, err error) {
	fds, err := dialAll(s.Conns, s.To)
	if err != nil {
		return r, err
	}
	p, err := newPoller()
	if err != nil {
		return r, err
	}
	request, buffer := make([]byte, s.Size), make([]byte, chunk)
	open := make([]exchange, maxFD(fds)+1)
	for _, fd := range fds {
		if err := p.add(fd, unix.EPOLLIN); err != nil {
			return r, err
		}
		if err := send(fd, request); err != nil {
			return r, err
		}
		open[fd] = exchange{since: time.Now(), left: s.Size}
	}
	var latencies histogram
	w := newWindow(s)
	err = w.watch(p, &r, "no answer", func(fd int) (answered bool, err error) {
		x := &open[fd]
		n, errno := read(fd, buffer)
		if n < 0 && again(errno) {
			return false, nil
		}
		if n <= 0 {
			return false, fmt.Errorf("a connection ended: %w", cmpErr(errnoOf(errno), unix.EPIPE))
		}
		if x.left -= n; x.left > 0 {
			return false, nil
		}
		now := time.Now()
		if w.open {
			r.Ops++
			latencies.add(now.Sub(x.since))
		}
		*x = exchange{since: now, left: s.Size}
		return true, send(fd, request)
	})
	latencies.into(&r)
	return r, err
}

// send writes a request, which a socket with nothing in it has room for.
func send(fd int, request []byte) error {
	if n, errno := write(fd, request); n != len(request) {
		return fmt.Errorf("a request of %d bytes: %d written: %w", len(request), n, cmpErr(errnoOf(errno), unix.EAGAIN))
	}
	return nil
}

func maxFD(fds []int) (highest int) {
	for _, fd := range fds {
		highest = max(highest, fd)
	}
	return highest
}

// perSource is how many connections in a row leave from one address: each leaves its
// port in TIME_WAIT, and addresses 127.1.0.1 and up take turns so that no address runs
// out of them.
const perSource = 4096

func source(n int) netip.Addr {
	k := n / perSource
	return netip.AddrFrom4([4]byte{127, 1, byte(k / 200 % 200), byte(k%200 + 1)})
}

// churn connects, exchanges and closes, Conns of them at once.
func churn(s Spec) (r Result, err error) {
	p, err := newPoller()
	if err != nil {
		return r, err
	}
	request, buffer := make([]byte, s.Size), make([]byte, chunk)
	open := make([]exchange, 4096)
	made := 0
	begin := func(now time.Time) error {
		fd, err := dial(source(made), s.To)
		if err != nil {
			return err
		}
		made++
		if fd >= len(open) {
			return fmt.Errorf("descriptor %d: more connections are open than were asked for", fd)
		}
		open[fd] = exchange{since: now, left: s.Size}
		return p.add(fd, unix.EPOLLOUT)
	}
	for range s.Conns {
		if err := begin(time.Now()); err != nil {
			return r, err
		}
	}
	var latencies histogram
	w := newWindow(s)
	err = w.watch(p, &r, "no connection was served", func(fd int) (served bool, err error) {
		done, failed := open[fd].step(p, fd, request, buffer)
		if !done && !failed {
			return false, nil
		}
		now := time.Now()
		if w.open {
			if failed {
				r.Failed++
			} else {
				r.Ops++
				latencies.add(now.Sub(open[fd].since))
			}
		}
		shut(fd)
		return done, begin(now)
	})
	latencies.into(&r)
	return r, err
}

// step goes on with a connection that is ready: to write once it is there, then to
// read until the answer is complete.
func (x *exchange) step(p *poller, fd int, request, buffer []byte) (done, failed bool) {
	if !x.ready {
		x.ready = true
		if n, _ := write(fd, request); n != len(request) {
			return false, true // refused or reset
		}
		return false, p.modify(fd, unix.EPOLLIN) != nil
	}
	n, errno := read(fd, buffer)
	switch {
	case n > 0:
		x.left -= n
		return x.left <= 0, false
	case n < 0 && again(errno):
		return false, false
	}
	return false, true
}
