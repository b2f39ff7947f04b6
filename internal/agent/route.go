package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/internal/proxyproto"
	"github.com/ambassadord/ambassadord/proxy"
)

// way is from where a connection came, and where it was dialled.
type way struct{ from, to netip.AddrPort }

// routeFor is the second half of every Router: the client is known, what it has bound
// the port to is not yet.
func (a *agent) routeFor(namespace *identity.Namespace, w way) (proxy.Route, error) {
	port := w.to.Port()
	client, b, ok := namespace.Lookup(port)
	if !ok {
		route := proxy.Route{Client: clientOf(client), Port: port}
		return route, proxy.Fail(proxy.NoBinding, hint.Errorf(
			fmt.Sprintf("label it connect.%d=TARGET and start it anew", port),
			"container %s declares nothing for port %d", route.Client.Name, port))
	}
	return a.routeAs(namespace, client, &b, w)
}

// routeAs is routeFor where client, which is in namespace, has b.
func (a *agent) routeAs(namespace *identity.Namespace, client *identity.Client, b *binding.Binding, w way) (proxy.Route, error) {
	route := proxy.Route{Client: clientOf(client), Port: w.to.Port(), Target: b.Text}
	switch {
	case isDenial(b.Problem):
		return route, proxy.Fail(proxy.Denied, b.Problem)
	case b.Problem != nil:
		return route, proxy.Fail(proxy.NoBinding, fmt.Errorf("container %s: %w", route.Client.Name, b.Problem))
	}
	w.from = sourceSeen(namespace, w.from)
	return a.bound(route, b, w, namespace.Owner.ShortID(), client.Container)
}

// bound completes the route of a binding. who is by which key the client has its places
// (places); container is nil for one that is none.
func (a *agent) bound(route proxy.Route, b *binding.Binding, w way, who string, container *dockerd.Container) (proxy.Route, error) {
	scope := a.scopeOf(b, container)
	if v, at := scope.Target(); v.Denied() {
		return route, proxy.Fail(proxy.Denied, scope.Deny(v, at))
	}
	up := a.upstreams.of(b, a.tuned().layers)
	client := route.Client.ID
	if client == "" {
		client = w.from.Addr().String()
	}
	route.Options = up.carried
	route.Endpoints = &chooser{agent: a, up: up, client: &balance.Reporter{Key: client, Name: route.Client.Name}, scope: scope}
	route.Share = a.places(who, route.Client.Name)
	route.Limits = a.upstreams.limitsOf(up, client, who, route.Client.Name, b)
	route.Opened = a.removals.opened(up)
	if up.options.SourceAddress.Client {
		route.Options.Source, route.Options.Transparent = w.from.Addr().Unmap(), true
	}
	var err error
	if route.Preface, err = preface(&up.options, w, container); err != nil {
		return route, proxy.Fail(proxy.DialFailed, err)
	}
	return route, nil
}

// preface is the PROXY header of a connection, if its endpoint wants one.
func preface(o *option.Set, w way, container *dockerd.Container) ([]byte, error) {
	client := proxyproto.Client{Source: w.from, Destination: w.to}
	if container != nil && o.ProxyProtocolTlvs != option.TLVsNone {
		client.Name, client.ID = container.Name, container.ID
	}
	if container != nil && o.ProxyProtocolTlvs == option.TLVsLabels {
		client.Labels = container.Labels
	}
	switch o.ProxyProtocol {
	case option.ProxyV1:
		return proxyproto.Header(1, client, o.ProxyProtocolMax)
	case option.ProxyV2:
		return proxyproto.Header(2, client, o.ProxyProtocolMax)
	case option.ProxyOff:
	}
	return nil, nil
}

// sourceSeen is the address by which others know the client of a connection: one that
// comes from its own loopback is seen with an address that its container has on a
// network, if it has one of that family.
func sourceSeen(n *identity.Namespace, from netip.AddrPort) netip.AddrPort {
	if !from.Addr().IsLoopback() {
		return from
	}
	for _, network := range n.Owner.Networks {
		for _, addr := range []netip.Addr{network.IPv4, network.IPv6} {
			if addr.IsValid() && addr.Is4() == from.Addr().Is4() {
				return netip.AddrPortFrom(addr, from.Port())
			}
		}
	}
	return from
}

func clientOf(c *identity.Client) proxy.Client {
	return proxy.Client{Name: c.Container.Name, ID: c.Container.ShortID(), Service: c.Container.Service()}
}

func trusts(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// peerOf is where conn comes from.
func peerOf(conn *net.TCPConn) netip.AddrPort {
	peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
}

func sourceOf(conn *net.TCPConn) netip.Addr { return peerOf(conn).Addr() }

func resolveReason(err error) proxy.Reason {
	if _, ok := errors.AsType[*noEndpoints](err); ok {
		return proxy.NoEndpoints
	}
	if _, ok := errors.AsType[*policy.Denial](err); ok {
		return proxy.Denied
	}
	return proxy.ResolveFailed
}
