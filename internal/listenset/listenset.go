// Package listenset has every listening socket of the daemon. It opens them, or takes those that
// the daemon before us has left (handed over, or stored with the service manager), serves them, and
// stores them for the next. A mode keeps none itself: it calls Accept, and ends the context it gave.
package listenset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

// Set is the listening sockets of one daemon.
type Set struct {
	server    *proxy.Server
	log       *slog.Logger
	registry  handover.Registry // what is served
	store     descriptorStore   // where that is kept for the next process of our unit
	inherited *handover.Set     // what the daemon before us has left; may be nil
	adopted   atomic.Int64      // how many of these are served
	accepting sync.WaitGroup    // every socket that accepts
}

// New makes a set without a socket, whose connections server carries.
func New(server *proxy.Server, log *slog.Logger) *Set {
	return &Set{server: server, log: log, store: descriptorStore{log: log}}
}

// Accept serves listener, which is what socket says, until ctx ends. It is closed when
// closed is, which is then or when it could not be served.
func (s *Set) Accept(ctx context.Context, socket handover.Socket, listener *net.TCPListener, router proxy.Router) (closed <-chan struct{}) {
	take, served, done := s.store.put(socket, listener), proxy.NewListener(listener), make(chan struct{})
	if socket.Namespace != (netns.ID{}) {
		served.Elsewhere()
	}
	remove := s.registry.Add(socket, served)
	stop, err := s.server.Accept(served, router) // which has logged what it returns
	s.accepting.Add(1)
	end := func() {
		defer s.accepting.Done()
		defer close(done)
		defer take()
		defer remove()
		stop()
	}
	if err != nil {
		go end() // a loop may be waiting for what our caller has locked
		return done
	}
	context.AfterFunc(ctx, end) // no goroutine waits for each of thousands
	return done
}

// Wait returns when no socket accepts any more: the contexts of all have ended.
func (s *Set) Wait() { s.accepting.Wait() }

// Registry is what is served, for the next daemon.
func (s *Set) Registry() *handover.Registry { return &s.registry }

// Inherited is what the daemon before us has left and nobody has taken yet; nil if that is nothing.
func (s *Set) Inherited() *handover.Set { return s.inherited }

// Receive is Inherited, for what another daemon is about to hand over.
func (s *Set) Receive() *handover.Set {
	if s.inherited == nil {
		s.inherited = handover.NewSet()
	}
	return s.inherited
}

// Adopted is how many sockets of the daemon before us were taken.
func (s *Set) Adopted() int64 { return s.adopted.Load() }

// Inherit takes a socket of the daemon before us; nil if there is none that fits.
func (s *Set) Inherit(socket handover.Socket, fits func(netip.AddrPort) bool) *net.TCPListener {
	l := s.inherited.Take(socket, fits)
	if l != nil {
		s.adopted.Add(1)
	}
	return l
}

// ListenFixed listens at address, or goes on doing so where the daemon before us did.
func (s *Set) ListenFixed(ctx context.Context, role handover.Role, address string) (*net.TCPListener, error) {
	for _, before := range []handover.Role{role, handover.Fixed, handover.Link} {
		if l := s.Inherit(handover.Socket{Role: before}, handover.At(address)); l != nil {
			return l, nil
		}
	}
	return Listen(ctx, address)
}

// Close closes a socket of the daemon before us that nobody has taken.
func (s *Set) Close(l handover.Left) {
	s.store.discard(l.Socket, l.Listener)
	l.Listener.Close()
}

// Listen listens on plain TCP: Go's default is MPTCP, which this data path
// does not want.
func Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		fix := ""
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			fix = "another process has this port: stop it, or choose another with --listen or PORT"
		case errors.Is(err, syscall.EACCES):
			fix = "ports below 1024 need CAP_NET_BIND_SERVICE: run as root, or choose another port"
		}
		return nil, hint.Wrap(fmt.Errorf("listen on %s: %w", address, plain(err)), fix)
	}
	return listener.(*net.TCPListener), nil
}

// plain strips the address from a network error whose text has it already.
func plain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// FirstFree calls listen for each of our listen ports until one is free, and then for any.
func FirstFree(listen func(port uint16) (*net.TCPListener, error)) (*net.TCPListener, error) {
	var firstErr error
	for port := netrules.FirstListenPort; ; port++ {
		if port > netrules.LastListenPort {
			port = 0
		}
		listener, err := listen(uint16(port))
		if err == nil {
			return listener, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if port == 0 {
			return nil, firstErr
		}
	}
}
