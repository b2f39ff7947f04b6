package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/handover"
)

// fixedListener is a listening socket of ours whose connections all go to one target.
type fixedListener struct {
	address  string // as it was configured
	listener *net.TCPListener
	service  atomic.Pointer[fixedService]
	cancel   context.CancelFunc // nil until it is served
	closed   <-chan struct{}
}

// serve accepts at l until ctx ends or l is closed.
func (l *fixedListener) serve(ctx context.Context, a *agent) {
	serving, cancel := context.WithCancel(ctx)
	l.cancel, l.closed = cancel, a.accept(serving, handover.Socket{Role: handover.Fixed}, l.listener, a.fixed(l))
}

// close returns when the address is free.
func (l *fixedListener) close() {
	if l.cancel == nil {
		l.listener.Close()
		return
	}
	l.cancel()
	<-l.closed
}

// fixedService is what a fixedListener does for a connection. A reload replaces it.
type fixedService struct {
	binding binding.Binding
	// proxyFrom are those whose PROXY header is believed, and demanded.
	proxyFrom []netip.Prefix
}

// serveListeners opens every fixed listener before it serves the first, so that
// a port that is taken is known at once.
func (a *agent) serveListeners(ctx context.Context) error {
	return a.changeListeners(ctx, a.tuned())
}

// changeListeners makes the fixed listeners those of t: it opens what is new, closes
// what is gone, and leads new connections of the others to what t says. When one
// cannot be opened all stay as they were. It is called by one goroutine at a time.
func (a *agent) changeListeners(ctx context.Context, t *tuning) error {
	wanted, err := a.fixedServices(t)
	if err != nil {
		return err
	}
	c := listenerChange{agent: a}
	for address, old := range a.fixedOpen {
		if wanted[address] == nil {
			c.leaving = append(c.leaving, old)
		}
	}
	// In the order of the configuration, for the log and for who reads it.
	for _, l := range t.cfg.Listeners {
		if a.fixedOpen[l.Address] == nil && !c.opens(l.Address) {
			if err := c.open(ctx, l.Address); err != nil {
				c.undo(ctx)
				return l.At(err)
			}
		}
	}
	for _, old := range c.leaving {
		old.close()
		delete(a.fixedOpen, old.address)
		a.log.Info("no longer listening", "address", old.listener.Addr().String())
	}
	for _, l := range c.opened {
		a.fixedOpen[l.address] = l
	}
	for address, l := range a.fixedOpen {
		service := wanted[address]
		service.binding.Port = l.listener.Addr().(*net.TCPAddr).AddrPort().Port()
		l.service.Store(service)
	}
	for _, l := range c.opened {
		a.log.Info("listening", "address", l.listener.Addr().String(), "target", l.service.Load().binding.Text)
		l.serve(ctx, a)
	}
	return nil
}

// fixedServices is what t's listeners do, by their addresses.
func (a *agent) fixedServices(t *tuning) (map[string]*fixedService, error) {
	services := map[string]*fixedService{}
	for _, l := range t.cfg.Listeners {
		b, err := bindingOf(l, t.layers, a.resolver.Parse)
		if err != nil {
			return nil, err
		}
		services[l.Address] = &fixedService{binding: b, proxyFrom: l.AcceptProxyFrom}
	}
	return services, nil
}

// listenerChange is one change of the fixed listeners, until it is sure to succeed.
type listenerChange struct {
	agent   *agent
	leaving []*fixedListener
	opened  []*fixedListener
	closed  []*fixedListener // of those that leave, to make room
}

func (c *listenerChange) opens(address string) bool {
	for _, l := range c.opened {
		if l.address == address {
			return true
		}
	}
	return false
}

// open listens at address. If one that leaves is in the way, as :80 is in that of
// 127.0.0.1:80, it goes first.
func (c *listenerChange) open(ctx context.Context, address string) error {
	listener, err := c.agent.listenFixed(ctx, handover.Fixed, address)
	if errors.Is(err, syscall.EADDRINUSE) && c.makeRoom(address) {
		listener, err = listenTCP(ctx, address)
	}
	if err != nil {
		return err
	}
	c.opened = append(c.opened, &fixedListener{address: address, listener: listener})
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
		listener, err := listenTCP(ctx, old.address)
		if err != nil {
			delete(c.agent.fixedOpen, old.address)
			c.agent.log.Error("cannot listen again where it listened", "address", old.address, "error", err)
			continue
		}
		again := &fixedListener{address: old.address, listener: listener}
		again.service.Store(old.service.Load())
		c.agent.fixedOpen[old.address] = again
		again.serve(ctx, c.agent)
	}
}
