package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/internal/proxyproto"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// Flow is one connection as its client sees it.
type Flow struct {
	From netip.AddrPort // its source
	To   netip.AddrPort // what was dialled
}

// PeerOf is where conn comes from.
func PeerOf(conn *net.TCPConn) netip.AddrPort { return unmapped(conn.RemoteAddr()) }

// LocalOf is what conn was accepted at.
func LocalOf(conn *net.TCPConn) netip.AddrPort { return unmapped(conn.LocalAddr()) }

func unmapped(addr net.Addr) netip.AddrPort {
	a := addr.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// For is the route of a connection whose client is one of those in namespace: which of them, and
// what it has bound the port to, is looked up.
func (r *Router) For(namespace *identity.Namespace, w Flow) (proxy.Route, error) {
	port := w.To.Port()
	client, b, ok := namespace.Lookup(port)
	if !ok {
		route := proxy.Route{Client: ClientOf(client), Port: port}
		return route, proxy.Fail(proxy.NoBinding, hint.Errorf(
			fmt.Sprintf("label it connect.%d=TARGET and start it anew", port),
			"container %s declares nothing for port %d", route.Client.Name, port))
	}
	return r.As(namespace, client, &b, w)
}

// As is For where the binding b of client, which is in namespace, is known.
func (r *Router) As(namespace *identity.Namespace, client *identity.Client, b *binding.Binding, w Flow) (proxy.Route, error) {
	route := proxy.Route{Client: ClientOf(client), Port: w.To.Port(), Target: b.Text}
	switch {
	case isDenial(b.Problem):
		return route, proxy.Fail(proxy.Denied, b.Problem)
	case b.Problem != nil:
		return route, proxy.Fail(proxy.NoBinding, fmt.Errorf("container %s: %w", route.Client.Name, b.Problem))
	}
	w.From = sourceSeen(namespace, w.From)
	return r.Bound(route, b, w, namespace.Owner.ShortID(), client.Container)
}

// Bound completes the route of a binding. who is the key by which the client has its share
// (Share); container is nil for a client that is none.
func (r *Router) Bound(route proxy.Route, b *binding.Binding, w Flow, who string, container *dockerd.Container) (proxy.Route, error) {
	scope := r.scopeOf(b, container)
	if v, at := scope.Target(); v.Denied() {
		return route, proxy.Fail(proxy.Denied, scope.Deny(v, at))
	}
	set := r.sets.of(b, r.settings.Load().Layers)
	client := route.Client.ID
	if client == "" {
		client = w.From.Addr().String()
	}
	route.Options = set.carried
	route.Endpoints = &chooser{router: r, set: set, client: &balance.Reporter{Key: client, Name: route.Client.Name}, scope: scope}
	route.Share = r.Share(who, route.Client.Name)
	route.Limits = r.sets.limitsOf(set, client, who, route.Client.Name, b)
	route.Opened = r.removals.opened(set)
	if set.options.SourceAddress.Client {
		route.Options.Source, route.Options.Transparent = w.From.Addr().Unmap(), true
	}
	var err error
	if route.Preface, err = preface(&set.options, w, container); err != nil {
		return route, proxy.Fail(proxy.DialFailed, err)
	}
	return route, nil
}

// preface is the PROXY header of a connection, if its endpoint wants one.
func preface(o *option.Set, w Flow, container *dockerd.Container) ([]byte, error) {
	client := proxyproto.Client{Source: w.From, Destination: w.To}
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

// ClientOf is c as the log names it.
func ClientOf(c *identity.Client) proxy.Client {
	return proxy.Client{Name: c.Container.Name, ID: c.Container.ShortID(), Service: c.Container.Service(), Project: c.Container.Project()}
}

func resolveReason(err error) proxy.Reason {
	if _, ok := errors.AsType[*resolver.NoEndpointsError](err); ok {
		return proxy.NoEndpoints
	}
	if _, ok := errors.AsType[*policy.Denial](err); ok {
		return proxy.Denied
	}
	return proxy.ResolveFailed
}

// mostComing bounds the containers of one port of which the engine is asked whether they run.
const mostComing = 16

// joiner returns which of those who are coming to n and declare port runs by now, nil if
// none does: of several the one that was started first.
func (r *Router) joiner(ctx context.Context, n *identity.Namespace, port uint16) (*identity.Client, error) {
	coming := n.ComingFor(port)
	coming = coming[:min(len(coming), mostComing)]
	states := make([]*dockerd.Container, len(coming))
	errs := make([]error, len(coming))
	var asking sync.WaitGroup
	for i, c := range coming {
		asking.Go(func() { states[i], errs[i] = r.inquire(ctx, c.Container.ID) })
	}
	asking.Wait()
	first := -1
	for i, now := range states {
		if now == nil || !now.Running {
			continue
		}
		if first < 0 || cmp.Or(now.StartedAt.Compare(states[first].StartedAt), cmp.Compare(now.ID, states[first].ID)) < 0 {
			first = i
		}
	}
	if first >= 0 {
		return coming[first], nil
	}
	return nil, errors.Join(slices.DeleteFunc(errs, dockerd.IsGone)...)
}

// Coming is For for a port that only those declare who are coming to n. client is
// nil if none of them runs; then what was dialled was meant for somebody in n itself.
func (r *Router) Coming(ctx context.Context, n *identity.Namespace, w Flow) (client *identity.Client, route proxy.Route, err error) {
	port := w.To.Port()
	route = proxy.Route{Client: ClientOf(n.Clients[0]), Port: port}
	if err = r.hold.Await(ctx, r.hold.Bound(port)); err == nil {
		client, err = r.joiner(ctx, n, port)
	}
	switch {
	case client != nil:
		b, _ := client.Bindings.Lookup(port)
		route, err = r.As(n, client, &b, w)
		return client, route, err
	case err != nil:
		return nil, route, proxy.Fail(proxy.UnknownClient, fmt.Errorf("port %d is declared by container %s, and whether that runs is not known: %w",
			port, n.ComingFor(port)[0].Container.Name, err))
	}
	who := n.ComingFor(port)[0].Container.Name
	return nil, route, proxy.Fail(proxy.NoBinding, hint.Errorf("start it: docker start "+who,
		"port %d is declared by container %s, which does not run", port, who))
}
