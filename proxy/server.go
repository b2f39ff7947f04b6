// Package proxy carries connections: accept, route, dial, relay, drain.
//
//	accept → who and which port → binding → endpoints   (the listener's Router)
//	       → dial, next on failure → relay → one Record
//
// Accept takes one listener; connection.go reads top to bottom as the way
// of one connection. The package knows no Docker, no registry and no iptables:
// what it must know of a connection it asks the Router that came with the
// listener.
//
// A few loops around epoll_wait(2) do the work that need not wait: listener.go accepts, firstdial.go
// dials the first endpoint where all is known at once, and relay.go carries the bytes and
// the ends of both streams. Work that takes more than that is done in a goroutine, on
// sockets of package net, by connection.go and search.go, which give the connection to a
// loop when its endpoint has answered.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/selfdial"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// Server carries connections for any number of listeners. Set its fields before
// the first Accept.
type Server struct {
	// Dial opens a connection to an endpoint; nil means plain TCP.
	Dial func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)
	// Limit is passed by every connection, before its Route's own; nil means none. As long
	// as it is not known whose a connection is, it has a place there as one of those that
	// come to its listener, from its address.
	Limit *limit.Limit
	// Unknown is for connections of which that is not known yet where Limit has no place
	// for them at once; nil means that they are not bounded.
	Unknown *limit.Limit
	// Loops is how many loops carry the connections; 0 means one.
	Loops int
	// Accepted bounds the connections that are accepted and have not ended,
	// those that wait for a Limit included: what is more is reset. 0 means no bound.
	Accepted int
	// Keeper is shown every connection once it is a second old; nil means nobody is.
	Keeper Keeper
	// Done is told of every connection once, at its end; nil means nobody is.
	Done func(Record)
	// Log is told when accepting fails; nil means nobody is.
	Log *slog.Logger

	connections  sync.WaitGroup
	accepted     atomic.Int64     // that have not ended
	own          selfdial.Tracker // of what is dialled
	loops        []*loop
	failed       error // why there are not as many as were wanted
	lending      sync.Mutex
	spare        socket.Spare // under lending
	nextLoop     atomic.Uint32
	unidentified limit.Unidentified
	reclaimer    reclaimer
	once         sync.Once
	ctx          context.Context // of every connection; ends when draining has lasted long enough
	expire       context.CancelCauseFunc
}

const (
	firstAcceptPause   = 5 * time.Millisecond
	longestAcceptPause = time.Second
)

// acceptPauses are between attempts to accept that fail.
func acceptPauses() backoff.Backoff {
	return backoff.Backoff{Base: firstAcceptPause, Max: longestAcceptPause}
}

// Accept begins to accept on listener, which is the Server's from here, and carries the
// connections, which Drain waits for. stop ends that, and returns when no loop accepts any more and
// listener is closed: it may wait for a loop, and has to be called after an error, too. A failure
// to accept is waited out, not fatal; with no descriptor left for a connection it is reset rather
// than left to wait unseen. The error says that there is no descriptor or memory to wait for any
// with.
func (s *Server) Accept(listener *Listener, router Router) (stop func(), err error) {
	s.init()
	defer func() {
		if err != nil && s.Log != nil {
			s.Log.Error("cannot accept", "listener", listener.Addr().String(), "error", err, hint.Attr(err))
		}
	}()
	if len(s.loops) == 0 {
		return listener.close, s.failed
	}
	fd, err := listener.detach()
	if err != nil {
		return listener.close, err
	}
	leave := s.own.EnteredHere(&listener.own)
	stop = sync.OnceFunc(func() {
		for _, l := range s.loops {
			l.call(func() { l.shut(fd) })
		}
		listener.close()
		leave()
	})
	// An accepted connection has it from here.
	socket.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	socket.KeepUrgentInLine(fd)
	for _, l := range s.loops {
		err = errors.Join(err, l.open(&acceptor{fd: fd, listener: listener, router: router, pauses: acceptPauses()}))
	}
	return stop, err
}

// enter counts a connection that was accepted until it is gone, and reports false when
// there are too many already.
func (s *Server) enter() bool {
	for {
		n := s.accepted.Load()
		if s.Accepted > 0 && n >= int64(s.Accepted) {
			return false
		}
		if s.accepted.CompareAndSwap(n, n+1) {
			s.connections.Add(1)
			return true
		}
	}
}

// gone tells of the end of a connection that was counted. Its place is free by then.
func (s *Server) gone(record *Record, accepted time.Time) {
	s.accepted.Add(-1)
	record.Err = prefaceHint(record)
	s.finish(record, accepted)
	s.connections.Done()
}

// Drain waits until every connection has ended. When ctx ends first, the rest
// are reset, with the reason drain_timeout, and then waited for. Nothing may be
// accepted any more.
func (s *Server) Drain(ctx context.Context) {
	s.init()
	stop := context.AfterFunc(ctx, func() { s.expire(errDrained) })
	defer stop()
	s.connections.Wait()
	s.lending.Lock()
	s.spare.Release()
	s.lending.Unlock()
	for _, l := range s.loops {
		l.post(func() { l.stopped = true })
	}
}

// init makes the context of connections. A connection that was accepted is carried to
// its end although accepting stops.
func (s *Server) init() {
	s.once.Do(func() {
		s.ctx, s.expire = context.WithCancelCause(context.Background())
		s.startLoops()
	})
}

// startLoops starts the loops, as many as can be made.
func (s *Server) startLoops() {
	wanted := max(1, s.Loops)
	for range wanted {
		l, err := newLoop(s)
		if err != nil {
			s.failed = hint.Wrap(err, "raise the limit of open files (ulimit -n, LimitNOFILE=)")
			if s.Log != nil {
				s.Log.Warn("cannot make all loops; fewer carry the connections, or none is accepted if there is none",
					"wanted", wanted, "started", len(s.loops), "error", err, hint.Attr(s.failed))
			}
			break
		}
		s.loops = append(s.loops, l)
	}
	s.spare.Take()
	for _, l := range s.loops {
		go l.run()
	}
	context.AfterFunc(s.ctx, func() {
		for _, l := range s.loops {
			l.post(func() { l.cutAll(context.Cause(s.ctx)) })
		}
	})
}

// takeBoth takes the sockets of two connections from package net. Where it fails the client's is
// as it was, for whyUnserved to look at, and the endpoint's may not be used again.
func (s *Server) takeBoth(client, upstream *net.TCPConn) (c, u int, ok bool) {
	if u, ok = s.detach(upstream); !ok {
		return -1, -1, false
	}
	if c, ok = s.detach(client); !ok {
		socket.ResetFD(u)
		return -1, -1, false
	}
	return c, u, true
}

// detach is detach with the spare descriptor where no other is left.
func (s *Server) detach(conn *net.TCPConn) (fd int, ok bool) {
	if fd, ok = socket.Detach(conn); ok {
		return fd, true
	}
	s.lending.Lock()
	defer s.lending.Unlock()
	s.spare.Release()
	defer s.spare.Take() // in the place of what conn had
	return socket.Detach(conn)
}

func addrOf(a net.Addr) netip.AddrPort {
	addr := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
