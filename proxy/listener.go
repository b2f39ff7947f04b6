package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/proxy/internal/selfdial"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// Listener is a listening socket that a Server accepts on, in whichever way: while the
// network poller of package net has a socket, each connection would wake it, too.
type Listener struct {
	own selfdial.Listener

	mu  sync.Mutex
	tcp *net.TCPListener // nil once detached or closed
	fd  int              // once detached; -1 before, and when it is closed
}

// NewListener takes tcp over.
func NewListener(tcp *net.TCPListener) *Listener {
	l := &Listener{tcp: tcp, fd: -1}
	l.own.ListensAt(tcp.Addr().(*net.TCPAddr))
	return l
}

// Elsewhere says that it listens in another network namespace than the process's own. It
// is called before Accept, and returns l.
func (l *Listener) Elsewhere() *Listener {
	l.own.Elsewhere = true
	return l
}

// Addr is where it listens, a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return l.own.Addr }

// SyscallConn is for what can be done to the descriptor as it is, with Control: that works
// until it is closed, by package net or in a loop. It does not wait.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return rawListener{l}, nil }

type rawListener struct{ listener *Listener }

// Control calls do with the descriptor, unless it is closed.
func (r rawListener) Control(do func(fd uintptr)) error {
	l := r.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp != nil {
		raw, err := l.tcp.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(do)
	}
	if l.fd < 0 {
		return net.ErrClosed
	}
	do(uintptr(l.fd))
	return nil
}

// Read is not supported.
func (rawListener) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// Write is not supported.
func (rawListener) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// detach takes the socket from package net, for loops to accept on.
func (l *Listener) detach() (fd int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp == nil {
		return -1, net.ErrClosed
	}
	raw, err := l.tcp.SyscallConn()
	if err != nil {
		return -1, err
	}
	var fail error
	err = raw.Control(func(old uintptr) {
		fd, fail = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) // epoll data below that has another meaning
	})
	if err != nil {
		return -1, err
	}
	if fail != nil {
		return -1, fmt.Errorf("duplicate the listening socket: %w", fail)
	}
	l.tcp.Close()
	l.tcp, l.fd = nil, fd
	return fd, nil
}

// close closes the socket, be it of package net or of loops.
func (l *Listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp != nil {
		l.tcp.Close()
		l.tcp = nil
		return
	}
	if l.fd >= 0 {
		socket.Close(l.fd)
		l.fd = -1
	}
}

// acceptor is a listening socket as one loop sees it.
type acceptor struct {
	fd       int
	listener *Listener
	router   Router
	pauses   backoff.Backoff // after failures
	drained  bool            // what was there before the listener had its options has been accepted
}

// atOnce is how many connections that nobody was told of are accepted or turned away
// before others have their turn.
const atOnce = 64

// open begins to accept at d. Any goroutine may call it; it does not wait for the loop, which
// passes over connections at what it has not been told of yet, and hears of them again.
func (l *loop) open(d *acceptor) error {
	if !l.post(func() { l.acceptors[d.fd] = d }) {
		return nil // it has ended
	}
	return l.awaitAcceptor(d)
}

func (l *loop) awaitAcceptor(d *acceptor) error {
	// A connection wakes one of the loops that wait (epoll_ctl(2), EPOLLEXCLUSIVE).
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: -int32(d.fd)}
	if err := socket.EpollControl(l.epoll, unix.EPOLL_CTL_ADD, d.fd, &event); err != nil {
		return fmt.Errorf("wait for connections: %w", err)
	}
	return nil
}

// shut stops accepting at fd.
func (l *loop) shut(fd int) {
	delete(l.acceptors, fd)
	_ = socket.EpollControl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil) // not there during a pause
}

// accept accepts what waits at d.
func (d *acceptor) accept(l *loop) {
	s := l.server
	for range atOnce {
		fd, source, err := socket.Accept(d.fd)
		switch err {
		case nil:
			d.pauses.Reset()
			l.now = l.clock()
			if !d.drained {
				socket.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
				socket.KeepUrgentInLine(fd)
			}
			if s.enter() {
				l.admit(fd, source, d)
			} else {
				l.refuse(fd, source, errFull)
			}
			if d.drained {
				return // none of those that are here waits behind a batch of others; the next wait tells of the next
			}
			continue
		case unix.EAGAIN: //nolint:errorlint // an errno
			d.drained = true
			return
		case unix.ECONNABORTED, unix.EPERM: // it left before, or a firewall says no: accept(2)
			continue
		case unix.EMFILE, unix.ENFILE:
			l.turnAway(d)
		}
		d.rest(l, err)
		return
	}
}

// rest stops accepting for a while after a failure.
func (d *acceptor) rest(l *loop, err error) {
	pause := d.pauses.Next()
	if log := l.server.Log; log != nil {
		log.Warn("cannot accept", "listener", d.listener.Addr().String(), "error", err, "retry_in", pause.String())
	}
	_ = socket.EpollControl(l.epoll, unix.EPOLL_CTL_DEL, d.fd, nil)
	time.AfterFunc(pause, func() {
		l.post(func() {
			if l.acceptors[d.fd] != d {
				return
			}
			if err := l.awaitAcceptor(d); err != nil {
				d.rest(l, err)
			}
		})
	})
}

// turnAway gives up the spare descriptor to accept the connections that wait, and
// resets them: their clients learn at once what they would wait for in vain.
func (l *loop) turnAway(d *acceptor) {
	if !l.spare.Release() {
		l.spare.Take()
		return
	}
	defer l.spare.Take()
	for range atOnce {
		fd, source, err := socket.Accept(d.fd)
		if err != nil {
			return
		}
		l.refuse(fd, source, errNoDescriptors)
	}
}

// refuseOf resets a connection that was counted, of whose route something is known.
func (l *loop) refuseOf(fd int, source netip.AddrPort, route *Route, err error) {
	socket.ResetFD(fd)
	l.server.gone(&Record{Route: *route, Source: source, Err: err}, l.at(l.now))
}

// refuse resets a connection that nobody will look at.
func (l *loop) refuse(fd int, source netip.AddrPort, err error) {
	socket.ResetFD(fd)
	l.server.finish(&Record{Source: source, Err: err}, l.at(l.now))
}
