// Package fixed is the way in for clients that dial an address of the operator's choice: each
// listener (LISTEN_PORT=TARGET, listeners: in the configuration) leads all its connections to one
// target. A reload opens and closes listeners around live connections.
package fixed

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/listenset"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/resolver"
)

// Config is what the listeners need of the daemon.
type Config struct {
	Sockets *listenset.Set
	Routes  *route.Router
	Clients *identity.Latest
	Hold    *hold.Hold
	Parse   func(string) (resolver.Target, error)
	Log     *slog.Logger
}

// Listeners are those that are open. One goroutine at a time changes them.
type Listeners struct {
	Config
	mu   sync.Mutex           // held by Report, and by what changes open
	open map[string]*listener // by the address as configured
}

// New has none open.
func New(c Config) *Listeners { return &Listeners{Config: c, open: map[string]*listener{}} }

// listener is a listening socket of ours whose connections all go to one target.
type listener struct {
	address string // as it was configured
	socket  *net.TCPListener
	service atomic.Pointer[forwarding]
	cancel  context.CancelFunc // nil until it is served
	closed  <-chan struct{}
}

// serve accepts at l until ctx ends or l is closed.
func (l *listener) serve(ctx context.Context, ls *Listeners) {
	serving, cancel := context.WithCancel(ctx)
	l.cancel, l.closed = cancel, ls.Sockets.Accept(serving, handover.Socket{Role: handover.Fixed}, l.socket, &router{Config: ls.Config, listener: l})
}

// close returns when the address is free.
func (l *listener) close() {
	if l.cancel == nil {
		l.socket.Close()
		return
	}
	l.cancel()
	<-l.closed
}

// forwarding is what a listener does for a connection. A reload replaces it.
type forwarding struct {
	binding binding.Binding
	// proxyFrom are those whose PROXY header is believed, and demanded.
	proxyFrom []netip.Prefix
}

// Change makes the listeners those of s: it opens all that are new before it serves the first of
// them, so that a port that is taken is known at once, closes what is gone, and leads new
// connections of the others to what s says. They are served until ctx ends. When one cannot be
// opened all stay as they were.
func (ls *Listeners) Change(ctx context.Context, s *settings.Settings) error {
	wanted, err := ls.services(s)
	if err != nil {
		return err
	}
	c := listenerChange{Listeners: ls}
	for address, old := range ls.open {
		if wanted[address] == nil {
			c.leaving = append(c.leaving, old)
		}
	}
	// In the order of the configuration, for the log and for who reads it.
	for _, l := range s.Config.Listeners {
		if ls.open[l.Address] == nil && !c.opens(l.Address) {
			if err := c.add(ctx, l.Address); err != nil {
				c.undo(ctx)
				return l.At(err)
			}
		}
	}
	for _, old := range c.leaving {
		old.close()
		ls.mu.Lock()
		delete(ls.open, old.address)
		ls.mu.Unlock()
		ls.Log.Info("no longer listening", "address", old.socket.Addr().String())
	}
	for address, l := range merged(ls.open, c.opened) {
		does := wanted[address]
		does.binding.Port = l.socket.Addr().(*net.TCPAddr).AddrPort().Port()
		l.service.Store(does)
	}
	ls.mu.Lock()
	for _, l := range c.opened {
		ls.open[l.address] = l
	}
	ls.mu.Unlock()
	for _, l := range c.opened {
		ls.Log.Info("listening", "address", l.socket.Addr().String(), "target", l.service.Load().binding.Text)
		l.serve(ctx, ls)
	}
	return nil
}

// merged are those that are open, and those that were opened and have yet to be, by address.
func merged(open map[string]*listener, opened []*listener) map[string]*listener {
	all := maps.Clone(open)
	for _, l := range opened {
		all[l.address] = l
	}
	return all
}

// services is what the listeners of s do, by their addresses.
func (ls *Listeners) services(s *settings.Settings) (map[string]*forwarding, error) {
	services := map[string]*forwarding{}
	for _, l := range s.Config.Listeners {
		b, err := settings.BindingOf(l, s.Layers, ls.Parse)
		if err != nil {
			return nil, err
		}
		services[l.Address] = &forwarding{binding: b, proxyFrom: l.AcceptProxyFrom}
	}
	return services, nil
}

// listenerChange is one change of the fixed listeners, until it is sure to succeed.
type listenerChange struct {
	*Listeners
	leaving []*listener
	opened  []*listener
	closed  []*listener // of those that leave, to make room
}

func (c *listenerChange) opens(address string) bool {
	for _, l := range c.opened {
		if l.address == address {
			return true
		}
	}
	return false
}

// add listens at address. If one that leaves is in the way, as :80 is in that of
// 127.0.0.1:80, it goes first.
func (c *listenerChange) add(ctx context.Context, address string) error {
	socket, err := c.Sockets.ListenFixed(ctx, handover.Fixed, address)
	if errors.Is(err, syscall.EADDRINUSE) && c.makeRoom(address) {
		socket, err = listenset.Listen(ctx, address)
	}
	if err != nil {
		return err
	}
	c.opened = append(c.opened, &listener{address: address, socket: socket})
	return nil
}

// makeRoom closes those that leave the port of address, and reports whether there
// are any.
func (c *listenerChange) makeRoom(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	made := false
	for _, old := range c.leaving {
		if _, oldPort, err := net.SplitHostPort(old.address); err == nil && oldPort == port {
			old.close()
			c.closed = append(c.closed, old)
			made = true
		}
	}
	return made
}

// undo closes what was opened and opens again what was closed.
func (c *listenerChange) undo(ctx context.Context) {
	for _, l := range c.opened {
		l.close()
	}
	for _, old := range c.closed {
		socket, err := listenset.Listen(ctx, old.address)
		if err != nil {
			c.mu.Lock()
			delete(c.Listeners.open, old.address)
			c.mu.Unlock()
			c.Log.Error("cannot listen again where it listened", "address", old.address, "error", err)
			continue
		}
		again := &listener{address: old.address, socket: socket}
		again.service.Store(old.service.Load())
		c.mu.Lock()
		c.Listeners.open[old.address] = again
		c.mu.Unlock()
		again.serve(ctx, c.Listeners)
	}
}

// Report adds the listeners that are open, in the order of their addresses. It may be called by
// any goroutine.
func (ls *Listeners) Report(s *status.Snapshot) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, address := range slices.Sorted(maps.Keys(ls.open)) {
		l := ls.open[address]
		b := &l.service.Load().binding
		s.Listeners = append(s.Listeners, status.Listener{Address: address, Listens: handover.AddrOf(l.socket), Target: b.Text, Options: b.Options})
	}
}
