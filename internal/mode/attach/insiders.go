package attach

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/sourceguard"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

// insiders is the Router of a socket at a loopback address of a container's namespace: it
// serves who is in there and nobody else. Nobody else gets there, unless rules that the
// container has made lead to it what others, or we ourselves, have dialled.
type insiders struct {
	proxy.PromptRouter

	ns *netns.Namespace
}

// Route is that of a connection from inside.
func (i *insiders) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	if source := route.PeerOf(conn).Addr(); !source.IsLoopback() {
		if err := i.refuse(source); err != nil {
			return proxy.Route{Client: proxy.Client{Name: source.String()}, Port: route.LocalOf(conn).Port()}, err
		}
	}
	return i.PromptRouter.Route(ctx, conn)
}

// RouteNow is Route of a connection that is surely from inside, as nearly all are.
func (i *insiders) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	if !conn.Source.Addr().Unmap().IsLoopback() {
		return nil, nil
	}
	return i.PromptRouter.RouteNow(conn)
}

// refuse says why a connection from source is not the container's own; nil if it is.
func (i *insiders) refuse(source netip.Addr) error {
	const fix = "remove the rules (REDIRECT, DNAT) that lead to our port in this container"
	addrs, err := i.ns.Addrs()
	switch {
	case err != nil:
		return proxy.Fail(proxy.UnknownClient, err)
	case slices.Contains(addrs, source):
		return nil
	case sourceguard.IsOwn(source):
		return proxy.Fail(proxy.Loop, hint.Errorf(fix, "it comes from %s, an address of the daemon's own: rules in network namespace %s lead what the host dials there to our socket",
			source, i.ns.Path()))
	}
	return proxy.Fail(proxy.UnknownClient, hint.Errorf(fix, "it comes from %s, which is no address of network namespace %s: rules in there lead it to our socket",
		source, i.ns.Path()))
}
