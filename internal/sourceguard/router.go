package sourceguard

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

const (
	// clientAppears is how long a connection from an unknown address waits for
	// the engine to tell whose it is: a container's first act may be to dial.
	clientAppears = 2 * time.Second
	// startSlack is by how much a container may have dialled before the moment
	// that the engine gives as its start, which it takes after the fact.
	startSlack = 100 * time.Millisecond
)

// Routing is what a Router needs of the daemon.
type Routing struct {
	Clients  *identity.Latest
	Routes   *route.Router
	Hold     *hold.Hold
	Engine   Engine
	Settings *settings.Current
}

// Router is the proxy.Router of modes in which the client is known by its source address alone. It
// knows the routes of clients at once whose addresses the guard proves.
type Router struct {
	Routing
	Guard  *Guard         // nil where nothing keeps containers from forging addresses
	Listen netip.AddrPort // our socket's address if nobody may dial that

	known route.Cache[sourcePort]
}

// Engine says what a container is now: *dockerd.Watcher.
type Engine interface {
	Inspect(ctx context.Context, id string) (*dockerd.Container, error)
	Err() error
}

// sourcePort is what a cached route is for.
type sourcePort struct {
	client *identity.Namespace
	port   uint16
}

// Route finds out whose the connection is, and where it goes. A connection to our own socket was
// not led to it: what it was to be meant for cannot be known.
func (r *Router) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := origdst.Of(conn)
	if err == nil && r.Listen.IsValid() && dst == route.LocalOf(conn) {
		err = hint.Errorf("dial the port that the container declares", "%s is where the daemon itself listens", dst)
	}
	source := route.PeerOf(conn).Addr()
	if err != nil {
		return proxy.Route{Client: proxy.Client{Name: source.String()}, Port: dst.Port()}, proxy.Fail(proxy.NoBinding, err)
	}
	n, known, err := r.clientAt(ctx, source, dst.Port(), time.Now())
	if err != nil {
		return proxy.Route{Client: proxy.Client{Name: source.String()}, Port: dst.Port()}, proxy.Fail(proxy.UnknownClient, err)
	}
	if err := r.believe(source); err != nil {
		client, _, _ := n.Lookup(dst.Port())
		return proxy.Route{Client: route.ClientOf(client), Port: dst.Port()}, proxy.Fail(proxy.Denied, err)
	}
	flow := route.Flow{From: route.PeerOf(conn), To: dst}
	if len(n.ComingFor(dst.Port())) > 0 { // one that has just started may have joined
		_, to, err := r.Routes.Coming(ctx, n, flow)
		return to, err
	}
	to, err := r.Routes.For(n, flow)
	to.Known = known
	return to, err
}

// RouteNow is Route for the ports that clients declare whose addresses the guard proves.
func (r *Router) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	dst, err := origdst.OfSocket(conn.FD, conn.Source.Addr())
	if err != nil || dst == r.Listen {
		return nil, nil
	}
	accepted, source := time.Now(), conn.Source.Addr().Unmap()
	table := r.Clients.Load()
	if table == nil {
		return nil, nil
	}
	n := table.At(source)
	if n == nil || !r.Guard.proves(n, source, accepted) {
		return nil, nil
	}
	flow := route.Flow{From: netip.AddrPortFrom(source, conn.Source.Port()), To: dst}
	return route.ForNowBy(r.Routes, &r.known, r.Routes.BasisOf(route.Made{Table: table}), sourcePort{n, dst.Port()}, n, flow)
}

// believe says why a connection from source may not be its owner's.
func (r *Router) believe(source netip.Addr) error {
	if r.Settings.Load().Config.TrustSources || r.Guard.binds(source) {
		return nil
	}
	forger := r.Clients.Load().Forger(source) // clientAt has found source in a table
	if forger == nil {
		return nil
	}
	return hint.Errorf("give the daemon what its guard needs"+unguardedHint, "container %s could have forged the source address %s, and nothing keeps it from that",
		forger.Name, source)
}

// unguardedHint goes on after what would give us a guard.
const unguardedHint = ", run every container of that network with --cap-drop NET_RAW, " +
	"or accept the risk with --trust-source-addresses"

// WarnUnguarded says what it means that there is no guard, because of err.
func (c *Config) WarnUnguarded(err error) {
	if c.Settings.Load().Config.TrustSources {
		c.Log.Warn("source addresses are believed unchecked: a container that may make raw packets can pretend to be another of its bridge", "error", err)
		return
	}
	c.Log.Warn("source addresses cannot be checked: containers that could forge them, and those on a network with one, are refused",
		"error", err, "hint", cmp.Or(hint.Of(err), "give the daemon what its guard needs")+unguardedHint)
}

// clientAt finds the container that had the address source at the time accepted.
// Addresses are reused within moments, so the table's word alone is not taken:
// the guard must prove that nobody else could have come from there, or the engine
// confirm that this container has the address, and had it then. While the engine is away the
// connection to port is held; known is when it was back then.
func (r *Router) clientAt(ctx context.Context, source netip.Addr, port uint16, accepted time.Time) (n *identity.Namespace, known time.Time, err error) {
	late := time.NewTimer(clientAppears)
	defer late.Stop()
	var bound time.Time // set when the engine was found away
	own := sync.OnceValue(func() bool { return IsOwn(source) })
	for {
		table, changed := r.Clients.Watch()
		if table != nil {
			n := table.At(source)
			if n != nil && (r.Guard.proves(n, source, accepted) || r.confirm(ctx, n, source, accepted)) {
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
			if r.Hold.Away() != nil && bound.IsZero() {
				bound = accepted.Add(r.Hold.Bound(port))
			}
			if left := time.Until(bound); left > 0 && r.Hold.Away() != nil {
				late.Reset(min(left, clientAppears))
				continue
			}
		case <-ctx.Done():
		}
		err := hint.Errorf("containers must share a network with the daemon, and the engine must answer",
			"no running container surely has the address %s", source)
		return nil, known, errors.Join(err, r.Engine.Err())
	}
}

// IsOwn reports whether addr is an address of the daemon's own network namespace.
func IsOwn(addr netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(addr.AsSlice())
	})
}

// confirm reports whether the engine says that n's owner has the address, and had it at that time.
func (r *Router) confirm(ctx context.Context, n *identity.Namespace, source netip.Addr, accepted time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, clientAppears)
	defer cancel()
	now, err := r.Engine.Inspect(ctx, n.Owner.ID)
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
