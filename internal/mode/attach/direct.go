package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/proxy"
)

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
		if !wanted[addr] { // who declared it has left the namespace
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

// Route is that of whoever the port is declared by now.
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
