package fixed

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/proxyproto"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/proxy"
)

// headerPatience is how long a trusted peer may take to say who its client is.
const headerPatience = 10 * time.Second

// router is the proxy.Router of a listener with one target, which a reload may change.
type router struct {
	Config
	listener *listener
	known    route.Cache[netip.Addr]
}

// Route finds the route of a connection, by its PROXY header if it has to have one.
func (f *router) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	does := f.listener.service.Load()
	b := &does.binding
	flow := route.Flow{From: route.PeerOf(conn), To: route.LocalOf(conn)}
	read := 0
	if trusts(does.proxyFrom, flow.From.Addr()) {
		ctx, cancel := context.WithTimeout(ctx, headerPatience)
		defer cancel()
		source, n, err := proxyproto.Read(ctx, conn)
		if err != nil {
			return proxy.Route{Client: proxy.Client{Name: flow.From.Addr().String()}, Port: b.Port, Target: b.Text, Read: n},
				proxy.Fail(proxy.UnknownClient, err)
		}
		if source.IsValid() {
			flow.From = source
		}
		read = n
	}
	to, err := f.route(does, f.Clients.Load(), flow)
	to.Read = read
	return to, err
}

// route is what does has for a connection.
func (f *router) route(does *forwarding, table *identity.Table, flow route.Flow) (proxy.Route, error) {
	b := &does.binding
	to := proxy.Route{Client: proxy.Client{Name: flow.From.Addr().String()}, Port: b.Port, Target: b.Text}
	var container *dockerd.Container
	who := proxy.ClientAddr(flow.From.Addr()).String()
	// The client matters to the log and the endpoint's header alone here, so an answer that no
	// guard proves will do. While the engine is away an address may be another's.
	if table != nil {
		if n := table.At(flow.From.Addr()); n != nil && f.Hold.Current(n.Owner) {
			to.Client, container, who = route.ClientOf(n.Clients[0]), n.Owner, n.Owner.ShortID()
		}
	}
	return f.Routes.Bound(to, b, flow, who, container)
}

// RouteNow is Route for those who need not say who they are.
func (f *router) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	does, table := f.listener.service.Load(), f.Clients.Load()
	flow := route.Flow{From: netip.AddrPortFrom(conn.Source.Addr().Unmap(), conn.Source.Port())}
	source := flow.From.Addr()
	// Of a link-local address conn may lack the zone, which is part of the client's name.
	if trusts(does.proxyFrom, source) || source.Is6() && source.IsLinkLocalUnicast() {
		return nil, nil
	}
	from := f.Routes.BasisOf(route.Made{Service: does, Table: table})
	c := f.known.Find(from, source)
	if c == nil {
		c = f.Routes.Shared(&does.binding, func() (proxy.Route, error) { return f.route(does, table, flow) })
		f.known.Add(from, source, c)
	}
	return f.Routes.Now(c)
}

func trusts(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
