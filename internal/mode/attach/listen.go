package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/proxy"
)

// listenAll opens the sockets of families, unless they are open.
func (at *attachment) listenAll(ctx context.Context, families []netrules.Family) error {
	for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
		if at.listening[f] == nil { // also where the engine has turned IPv6 off since
			at.inherit(ctx, f, at)
		}
	}
	for _, f := range families {
		if err := at.listenOn(ctx, f, at); err != nil {
			return err
		}
	}
	return nil
}

// accept opens the sockets of families, unless they are open, and tells at.redirects of them.
func (at *attachment) accept(ctx context.Context, families []netrules.Family) error {
	if err := at.listenAll(ctx, families); err != nil {
		return err
	}
	at.redirects.begin(place{at.ns, slices.Collect(maps.Keys(at.listening)), at.listen}, nil)
	return nil
}

// listenDirectly is mode listen: a socket on each declared port itself, and no
// rule at all. A port that cannot be had, because the container serves it itself,
// costs that port alone, and is tried again at the next repair.
func (at *attachment) listenDirectly(ctx context.Context, n *identity.Namespace, families []netrules.Family) error {
	wanted := map[netip.AddrPort]bool{}
	var errs []error
	for _, b := range n.Bindings() {
		for _, f := range families {
			addr := netip.AddrPortFrom(netrules.Loopback(f), b.Port)
			wanted[addr] = true
			errs = append(errs, at.listenAt(ctx, addr))
		}
	}
	for addr, cancel := range at.direct {
		if !wanted[addr] { // the container that declared it has left the namespace
			cancel()
			delete(at.direct, addr)
		}
	}
	return errors.Join(errs...)
}

// listenAt opens the listening socket at addr, unless it is open, and serves it.
func (at *attachment) listenAt(ctx context.Context, addr netip.AddrPort) error {
	if at.direct[addr] != nil {
		return nil
	}
	if at.inheritDirect(ctx, addr) {
		return nil
	}
	listener, err := at.ns.ListenTCP(addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return hint.Errorf("declare another port, or use --mode redirect",
			"container %s listens on %s itself", at.desired.Load().Owner.Name, addr)
	}
	if err != nil {
		return fmt.Errorf("listen inside the container: %w", err)
	}
	at.direct[addr] = at.serveDirect(ctx, addr, listener)
	return nil
}

// serveDirect serves the socket of a declared port until the function that it returns is
// called.
func (at *attachment) serveDirect(ctx context.Context, addr netip.AddrPort, listener *net.TCPListener) context.CancelFunc {
	serving, cancel := context.WithCancel(ctx)
	at.Sockets.Accept(serving, at.directSocket(), listener, &insiders{&directRouter{at, addr}, at.ns})
	return cancel
}

// directRouter is the Router of the socket of a declared port.
type directRouter struct {
	*attachment
	addr netip.AddrPort
}

// Route is that of the client that declares the port now.
func (d *directRouter) Route(_ context.Context, conn *net.TCPConn) (proxy.Route, error) {
	return d.Routes.For(d.desired.Load(), route.Flow{From: route.PeerOf(conn), To: d.addr})
}

// RouteNow is Route while the port is declared.
func (d *directRouter) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	return d.Routes.ForNow(&d.known, d.desired.Load(), route.Flow{From: conn.Source, To: d.addr})
}

// inheritDirect serves the socket at addr that the daemon before us has left, if there
// is one.
func (at *attachment) inheritDirect(ctx context.Context, addr netip.AddrPort) bool {
	listener := at.Sockets.Inherit(at.directSocket(), func(there netip.AddrPort) bool { return there == addr })
	if listener == nil {
		return false
	}
	at.direct[addr] = at.serveDirect(ctx, addr, listener)
	return true
}

// directSocket is what our sockets at declared ports are to the next daemon.
func (at *attachment) directSocket() handover.Socket {
	return handover.Socket{Role: handover.Listen, Namespace: at.ns.ID()}
}

// directAddr is where mode listen listens for a binding.
func directAddr(f netrules.Family, b binding.Binding) netip.AddrPort {
	return netip.AddrPortFrom(netrules.Loopback(f), b.Port)
}

// adopt serves the sockets that the daemon before us has left in this namespace, before
// run begins. It touches no rule.
func (at *attachment) adopt(ctx context.Context) {
	if at.Turn.Ours() { // there is no such daemon, or the sockets of what it did are run's to find
		return
	}
	n := at.desired.Load()
	ns, err := at.Engine.OpenNamespace(ctx, n.Owner)
	if err != nil {
		return // as for any other; run tries again
	}
	at.ns, at.inside = ns, ns
	both := netrules.Families()
	if at.Name == config.Listen {
		for _, f := range both {
			for _, b := range n.Bindings() {
				at.inheritDirect(ctx, directAddr(f, b))
			}
		}
	} else {
		for _, f := range both {
			at.inherit(ctx, f, at)
		}
	}
	at.borrowOtherMode(ctx, n, both)
}

// borrowOtherMode serves what the daemon before us has left for another mode, until ours is set
// up.
func (at *attachment) borrowOtherMode(ctx context.Context, n *identity.Namespace, both []netrules.Family) {
	for _, f := range both {
		if at.Name == config.Redirect {
			for _, b := range n.Bindings() {
				if at.inheritDirect(ctx, directAddr(f, b)) {
					at.surplus.sockets = append(at.surplus.sockets, at.direct[directAddr(f, b)])
					delete(at.direct, directAddr(f, b))
				}
			}
			continue
		}
		if at.inherit(ctx, f, at) {
			at.surplus.sockets = append(at.surplus.sockets, at.listening[f])
			delete(at.listening, f)
		}
	}
}

// giveBack ends what leads to us beside our own sockets and rules: in mode listen the rules
// that led there are unhooked, in mode redirect ours are there. A connection on its way is
// still accepted.
func (at *attachment) giveBack() {
	if at.Name == config.Listen && len(at.surplus.sockets) > 0 {
		if ns, err := at.ns.Again(); err != nil {
			at.Leftovers.Failed(err)
		} else {
			at.Leftovers.Leave(ns)
		}
		at.listen = 0
	}
	at.surplus.drop()
}
