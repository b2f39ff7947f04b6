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
)

// Server carries connections for any number of listeners. Set its fields before
// the first Serve.
type Server struct {
	// Dial opens a connection to an endpoint; nil means plain TCP.
	Dial func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)
	// Limit is passed by every connection, before its Route's own; nil means none. As long
	// as it is not known whose a connection is, it has a place there as one of those that
	// come to its listener, from its address.
	Limit *Limit
	// Unknown is for connections of which that is not known yet where Limit has no place
	// for them at once; nil means that they are not bounded.
	Unknown *Limit
	// Loops is how many loops carry the connections; 0 means two goroutines for each
	// connection instead.
	Loops int
	// Accepted bounds the connections that are accepted and have not ended,
	// those that wait for a Limit included: what is more is reset. 0 means no bound.
	Accepted int
	// Keeper is shown every connection, by loops once it is a second old; nil means nobody
	// is.
	Keeper Keeper
	// Done is told of every connection once, at its end; nil means nobody is.
	Done func(Record)
	// Log is told when accepting fails; nil means nobody is.
	Log *slog.Logger

	connections sync.WaitGroup
	accepted    atomic.Int64 // that have not ended
	flows       flows        // of our own network namespace
	here        atomic.Int32 // listeners there that are served
	locals      atomic.Pointer[locals]
	loops       []*loop
	nextLoop    atomic.Uint32
	strangers   strangers
	reclaimer   reclaimer
	once        sync.Once
	ctx         context.Context // of every connection; ends when draining has lasted long enough
	expire      context.CancelCauseFunc
}

const (
	firstAcceptPause   = 5 * time.Millisecond
	longestAcceptPause = time.Second
)

// acceptPauses are between attempts to accept that fail.
func acceptPauses() backoff.Backoff {
	return backoff.Backoff{Base: firstAcceptPause, Max: longestAcceptPause}
}

// Serve accepts on listener until it is closed or ctx ends, and carries the
// connections, which Drain waits for, in loops or goroutines. It closes listener.
// A failure to accept is waited out, not fatal; with no descriptor left for a
// connection it is reset rather than left to wait unseen.
func (s *Server) Serve(ctx context.Context, listener *Listener, router Router) error {
	s.init()
	defer s.enteredHere(listener)()
	if len(s.loops) > 0 {
		return s.serveByLoops(ctx, listener, router)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	tcp := listener.tcp
	var spare spareDescriptor
	spare.take()
	defer spare.release()
	pauses := acceptPauses()
	for {
		conn, err := tcp.AcceptTCP()
		switch {
		case err == nil:
			pauses.Reset()
			s.begin(conn, listener, router)
			continue
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			s.turnAway(tcp, &spare)
		}
		pause := pauses.Next()
		if s.Log != nil {
			s.Log.Warn("cannot accept", "listener", listener.Addr().String(), "error", err, "retry_in", pause.String())
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// begin carries a connection that was accepted, if there is room for it.
func (s *Server) begin(conn *net.TCPConn, listener *Listener, router Router) {
	accepted := time.Now()
	if !s.enter() {
		s.refuse(conn, accepted, errFull)
		return
	}
	source := addrOf(conn.RemoteAddr())
	leave, err := s.strangers.enter(s, listener, source)
	if err != nil {
		reset(conn)
		s.gone(&Record{Source: source, Err: err}, accepted)
		return
	}
	go s.carry(s.ctx, conn, accepted, listener, leave, router)
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

// refuse resets a connection that nobody will look at.
func (s *Server) refuse(conn *net.TCPConn, accepted time.Time, err error) {
	record := Record{Source: addrOf(conn.RemoteAddr()), Err: err}
	reset(conn)
	s.finish(&record, accepted)
}

// turnAway gives up the spare descriptor to accept the connections that wait, and
// resets them: their clients learn at once what they would wait for in vain.
func (s *Server) turnAway(listener *net.TCPListener, spare *spareDescriptor) {
	if !spare.release() {
		spare.take()
		return
	}
	defer spare.take()
	// Bounded, so that Serve's ctx is looked at; and without waiting for more.
	const most = 64
	if err := listener.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return
	}
	defer func() { _ = listener.SetDeadline(time.Time{}) }() // fails when it is closed
	for range most {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		s.refuse(conn, time.Now(), errNoDescriptors)
	}
}

// Drain waits until every connection has ended. When ctx ends first, the rest
// are reset, with the reason drain_timeout, and then waited for. No Serve may
// be running any more.
func (s *Server) Drain(ctx context.Context) {
	s.init()
	stop := context.AfterFunc(ctx, func() { s.expire(errDrained) })
	defer stop()
	s.connections.Wait()
	for _, l := range s.loops {
		l.post(func() { l.stopped = true })
	}
}

// init makes the context of connections. What has been accepted is carried to
// its end although accepting stops, so it does not descend from Serve's.
func (s *Server) init() {
	s.once.Do(func() {
		s.ctx, s.expire = context.WithCancelCause(context.Background())
		s.startLoops()
	})
}

// startLoops starts the loops, as many as can be made; without them there are goroutines.
func (s *Server) startLoops() {
	for range s.Loops {
		l, err := newLoop(s)
		if err != nil {
			if s.Log != nil {
				s.Log.Warn("cannot make all loops; fewer carry the connections, or goroutines if there is none, which takes more time",
					"wanted", s.Loops, "started", len(s.loops), "error", err)
			}
			break
		}
		s.loops = append(s.loops, l)
	}
	for _, l := range s.loops {
		go l.run()
	}
	context.AfterFunc(s.ctx, func() {
		for _, l := range s.loops {
			l.post(func() { l.cutAll(context.Cause(s.ctx)) })
		}
	})
}

func addrOf(a net.Addr) netip.AddrPort {
	addr := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
