package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
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
			addr := netip.AddrPortFrom(loopback(f), b.Port)
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
	listener, err := at.ns.ListenTCP(addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return hint.Errorf("declare another port, or use --mode redirect",
			"container %s listens on %s itself", at.desired.Load().Owner.Name, addr)
	}
	if err != nil {
		return fmt.Errorf("listen inside the container: %w", err)
	}
	serving, cancel := context.WithCancel(ctx)
	at.direct[addr] = cancel
	at.agent.accept(serving, listener, proxy.RouterFunc(func(_ context.Context, conn *net.TCPConn) (proxy.Route, error) {
		return at.agent.routeFor(at.desired.Load(), way{peerOf(conn), addr})
	}))
	return nil
}

func loopback(f netrules.Family) netip.Addr {
	if f == netrules.IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
