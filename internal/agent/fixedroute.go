package agent

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/proxyproto"
	"github.com/ambassadord/ambassadord/proxy"
)

// headerPatience is how long a trusted peer may take to say who its client is.
const headerPatience = 10 * time.Second

// fixedRouter is the Router of a listener with one target, which a reload may change.
type fixedRouter struct {
	agent    *agent
	listener *fixedListener
	known    prompts[netip.Addr]
}

func (a *agent) fixed(l *fixedListener) *fixedRouter { return &fixedRouter{agent: a, listener: l} }

// Route finds the route of a connection, by its PROXY header if it has to have one.
func (f *fixedRouter) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	service := f.listener.service.Load()
	b := &service.binding
	w := way{from: peerOf(conn), to: localOf(conn)}
	read := 0
	if trusts(service.proxyFrom, w.from.Addr()) {
		ctx, cancel := context.WithTimeout(ctx, headerPatience)
		defer cancel()
		source, n, err := proxyproto.Read(ctx, conn)
		if err != nil {
			return proxy.Route{Client: proxy.Client{Name: w.from.Addr().String()}, Port: b.Port, Target: b.Text, Read: n},
				proxy.Fail(proxy.UnknownClient, err)
		}
		if source.IsValid() {
			w.from = source
		}
		read = n
	}
	route, err := f.route(service, f.agent.table.load(), w)
	route.Read = read
	return route, err
}

// route is what service has for a connection.
func (f *fixedRouter) route(service *fixedService, table *identity.Table, w way) (proxy.Route, error) {
	b := &service.binding
	route := proxy.Route{Client: proxy.Client{Name: w.from.Addr().String()}, Port: b.Port, Target: b.Text}
	var container *dockerd.Container
	who := proxy.ClientAddr(w.from.Addr()).String()
	// Who it is matters to the log and the endpoint's header alone here, so an answer that no
	// guard vouches for will do. While the engine is away an address may be another's.
	if table != nil {
		if n := table.At(w.from.Addr()); n != nil && f.agent.current(n.Owner) {
			route.Client, container, who = clientOf(n.Clients[0]), n.Owner, n.Owner.ShortID()
		}
	}
	return f.agent.bound(route, b, w, who, container)
}

// RouteNow is Route for those who need not say who they are.
func (f *fixedRouter) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	service, table := f.listener.service.Load(), f.agent.table.load()
	w := way{from: netip.AddrPortFrom(conn.Source.Addr().Unmap(), conn.Source.Port())}
	source := w.from.Addr()
	// Of a link-local address conn may lack the zone, which is part of the client's name.
	if trusts(service.proxyFrom, source) || source.Is6() && source.IsLinkLocalUnicast() {
		return nil, nil
	}
	from := basis{service: service, table: table, policy: f.agent.policy(), forgotten: f.agent.upstreams.forgotten.Load()}
	p := f.known.find(from, source)
	if p == nil {
		p = f.agent.promptOf(&service.binding, func() (proxy.Route, error) { return f.route(service, table, w) })
		f.known.add(from, source, p)
	}
	return p.now(f.agent)
}
