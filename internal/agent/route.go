package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/proxy"
)

// routeFor is the second half of every Router: the client and the port are
// known, the binding and its endpoints are not yet.
func (a *agent) routeFor(ctx context.Context, namespace *identity.Namespace, port uint16) (proxy.Route, error) {
	client, b, ok := namespace.Lookup(port)
	route := proxy.Route{Client: clientOf(client), Port: port, Target: b.Text, DialTimeout: b.Options.Timeout}
	switch {
	case !ok:
		return route, proxy.Fail(proxy.NoBinding, hint.Errorf(
			fmt.Sprintf("label it connect.%d=TARGET and start it anew", port),
			"container %s declares nothing for port %d", route.Client.Name, port))
	case b.Problem != nil:
		return route, proxy.Fail(proxy.NoBinding, fmt.Errorf("container %s: %w", route.Client.Name, b.Problem))
	}
	return a.resolve(ctx, route, b)
}

// resolve fills in the endpoints.
func (a *agent) resolve(ctx context.Context, route proxy.Route, b binding.Binding) (proxy.Route, error) {
	endpoints, err := a.resolver.Resolve(ctx, b.Target)
	if err != nil {
		return route, proxy.Fail(resolveReason(err), err)
	}
	route.Endpoints = make([]proxy.Endpoint, len(endpoints))
	for i, e := range endpoints {
		route.Endpoints[i] = proxy.Endpoint{Addr: e.Addr, Name: e.Name}
	}
	return route, nil
}

func clientOf(c *identity.Client) proxy.Client {
	return proxy.Client{Name: c.Container.Name, ID: c.Container.ShortID(), Service: c.Container.Service()}
}

// fixed is the Router of a listener with one target.
func (a *agent) fixed(b binding.Binding) proxy.Router {
	return proxy.RouterFunc(func(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
		source := sourceOf(conn)
		route := proxy.Route{Client: proxy.Client{Name: source.String()}, Port: b.Port, Target: b.Text, DialTimeout: b.Options.Timeout}
		// Who it is matters to the log alone here, so an unsure answer will do.
		if table := a.table.load(); table != nil {
			if n := table.At(source); n != nil {
				route.Client = clientOf(n.Clients[0])
			}
		}
		return a.resolve(ctx, route, b)
	})
}

func sourceOf(conn *net.TCPConn) netip.Addr {
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
}

func resolveReason(err error) proxy.Reason {
	if _, ok := errors.AsType[*noEndpoints](err); ok {
		return proxy.NoEndpoints
	}
	return proxy.ResolveFailed
}
