package proxy

import (
	"sync"

	"golang.org/x/sys/unix"
)

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
