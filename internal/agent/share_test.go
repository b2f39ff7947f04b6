package agent

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/proxy"
)

// TestWhoseShareItIs: containers that share a namespace are one client, and others another,
// by whichever port they come; what nobody uses is forgotten with its client.
func TestWhoseShareItIs(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *agent, _ *told, b binding.Binding) {
		a.server = &proxy.Server{
			Limit:   proxy.NewLimit("the daemon", "", proxy.Bounds{Open: 80, Reserve: reserveOf(80)}),
			Unknown: proxy.NewLimit("unknown", "", proxy.Bounds{Open: 8}),
		}
		web := labelled("web", map[string]string{"connect.80": "told://a", "connect.81": "told://a", "connect.80.target-limit": "8"})
		helper := labelled("helper", map[string]string{"connect.82": "told://a", "connect.82.target-limit": "8"})
		helper.NetworkMode = "container:" + web.ID
		shop := labelled("shop", map[string]string{"connect.80": "told://a", "connect.80.target-limit": "8"})
		table := a.tableOf(nil, web, helper, shop)
		a.shareAmong(table)
		route := func(n *identity.Namespace, port uint16) proxy.Route {
			here := netip.MustParseAddr("127.0.0.1")
			r, err := a.routeFor(n, way{netip.AddrPortFrom(here, 4000), netip.AddrPortFrom(here, port)})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		one, two := table.Owned(web.ID), table.Owned(shop.ID)
		first := route(one, 80)
		if first.Share == nil || route(one, 81).Share != first.Share || route(one, 82).Share != first.Share || route(two, 80).Share == first.Share {
			t.Error("a namespace has not one share of the daemon's for itself")
		}
		if route(one, 82).Limits[0] != first.Limits[0] || route(two, 80).Limits[0] == first.Limits[0] || route(two, 80).Limits[0].Limit() != first.Limits[0].Limit() {
			t.Error("a namespace has not one share of the target's for itself")
		}
		var l fixedListener
		b.Options = option.Default()
		l.service.Store(&fixedService{binding: b})
		shareOf := func(source string) *proxy.Share {
			r, err := a.fixed(&l).route(l.service.Load(), nil, way{from: netip.MustParseAddrPort(source), to: netip.MustParseAddrPort("192.0.2.1:80")})
			if err != nil {
				t.Fatal(err)
			}
			return r.Share
		}
		if shareOf("127.0.0.1:1") != shareOf("127.9.9.9:2") || shareOf("[2001:db8::1]:1") != shareOf("[2001:db8::2]:1") || shareOf("192.0.2.7:1") == shareOf("192.0.2.8:1") {
			t.Error("addresses of one client have shares of their own, or those of several have one")
		}
		// The sidecar is made anew again and again, each time with another limit.
		had := len(a.upstreams.shares)
		for i := range 20 {
			helper := labelled("helper", map[string]string{"connect.82": "told://a", "connect.82.target-limit": strconv.Itoa(9 + i)})
			helper.NetworkMode = "container:" + web.ID
			table = a.tableOf(nil, web, helper, shop)
			a.upstreams.keep(table)
			one = table.Owned(web.ID)
			route(one, 82)
		}
		a.upstreams.keep(table)
		if n := len(a.upstreams.shares); n > had+1 {
			t.Errorf("%d shares, of limits that are gone; had %d", n, had)
		}
		a.upstreams.keep(identity.Build(dockerd.NewSnapshot(), nil, "", nil, a.resolver.Parse))
		if len(a.upstreams.shares) != 0 {
			t.Errorf("%d shares are kept for nobody", len(a.upstreams.shares))
		}
	})
}
