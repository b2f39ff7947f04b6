package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

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
