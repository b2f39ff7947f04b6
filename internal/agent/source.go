package agent

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/proxy"
)

const (
	// clientAppears is how long a connection from an unknown address waits for
	// the engine to tell whose it is: a container's first act may be to dial.
	clientAppears = 2 * time.Second
	// startSlack is by how much a container may have dialled before the moment
	// that the engine gives as its start, which it takes after the fact.
	startSlack = 100 * time.Millisecond
)

// routeBySource is the Router of the modes in which the client is known by its
// source address alone. dst is what it dialled; sentry is nil where nobody keeps
// containers from forging addresses.
func (a *agent) routeBySource(ctx context.Context, conn *net.TCPConn, dst netip.AddrPort, sentry *sentry) (proxy.Route, error) {
	accepted := time.Now()
	source := sourceOf(conn)
	n, known, err := a.clientAt(ctx, source, dst.Port(), accepted, sentry)
	if err != nil {
		return proxy.Route{Client: proxy.Client{Name: source.String()}, Port: dst.Port()}, proxy.Fail(proxy.UnknownClient, err)
	}
	if err := a.believe(source, sentry); err != nil {
		client, _, _ := n.Lookup(dst.Port())
		return proxy.Route{Client: clientOf(client), Port: dst.Port()}, proxy.Fail(proxy.Denied, err)
	}
	w := way{peerOf(conn), dst}
	if len(n.ComingFor(dst.Port())) > 0 { // one that has just started may have joined
		_, route, err := a.routeComing(ctx, n, w)
		return route, err
	}
	route, err := a.routeFor(n, w)
	route.Known = known
	return route, err
}

// believe says why a connection from source may not be its owner's.
func (a *agent) believe(source netip.Addr, sentry *sentry) error {
	if a.cfg.TrustSources || sentry.binds(source) {
		return nil
	}
	forger := a.table.load().Forger(source) // clientAt has found source in a table
	if forger == nil {
		return nil
	}
	return hint.Errorf("give the daemon what its guard needs"+unguardedHint, "container %s could have forged the source address %s, and nothing keeps it from that",
		forger.Name, source)
}

// unguardedHint goes on after what would give us a guard.
const unguardedHint = ", run every container of that network with --cap-drop NET_RAW, " +
	"or accept the risk with --trust-source-addresses"

// warnUnguarded says once what it means that there is no guard.
func (a *agent) warnUnguarded(err error) {
	if a.cfg.TrustSources {
		a.log.Warn("source addresses are believed unchecked: a container that may make raw packets can pretend to be another of its bridge", "error", err)
		return
	}
	a.log.Warn("source addresses cannot be checked: containers that could forge them, and those on a network with one, are refused",
		"error", err, "hint", cmp.Or(hint.Of(err), "give the daemon what its guard needs")+unguardedHint)
}

// clientAt finds the container that had the address source at the time accepted.
// Addresses are reused within moments, so the table's word alone is not taken:
// the guard must vouch that nobody else could have come from there, or the engine
// confirm that this container has the address, and had it then. While the engine is away the
// connection to port is held; known is when it was back then.
func (a *agent) clientAt(ctx context.Context, source netip.Addr, port uint16, accepted time.Time, sentry *sentry) (n *identity.Namespace, known time.Time, err error) {
	late := time.NewTimer(clientAppears)
	defer late.Stop()
	var bound time.Time // set when the engine was found away
	own := sync.OnceValue(func() bool { return isOwn(source) })
	for {
		table, changed := a.table.wait()
		if table != nil {
			n := table.At(source)
			if n != nil && (sentry.vouches(n, source, accepted) || a.confirm(ctx, n, source, accepted)) {
				if !bound.IsZero() {
					known = time.Now()
				}
				return n, known, nil
			}
			if n == nil && own() { // nor will a container ever have it
				return nil, known, hint.Errorf("dial from a container; if it was one, its source address was translated on the way (masquerade), and it may dial again",
					"%s is an address of the host itself", source)
			}
		}
		select {
		case <-changed:
			continue
		case <-late.C:
			if a.away() != nil && bound.IsZero() {
				bound = accepted.Add(a.holdBound(port))
			}
			if left := time.Until(bound); left > 0 && a.away() != nil {
				late.Reset(min(left, clientAppears))
				continue
			}
		case <-ctx.Done():
		}
		err := hint.Errorf("containers must share a network with the daemon, and the engine must answer",
			"no running container surely has the address %s", source)
		return nil, known, errors.Join(err, a.docker.Err())
	}
}

// isOwn reports whether addr is an address of the daemon's own network namespace.
func isOwn(addr netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(addr.AsSlice())
	})
}

func (a *agent) confirm(ctx context.Context, n *identity.Namespace, source netip.Addr, accepted time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, clientAppears)
	defer cancel()
	now, err := a.docker.Inspect(ctx, n.Owner.ID)
	if err != nil || !now.Running || now.StartedAt.Add(-startSlack).After(accepted) {
		return false
	}
	for _, network := range now.Networks {
		if network.IPv4 == source || network.IPv6 == source {
			return true
		}
	}
	return false
}
