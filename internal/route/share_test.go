package route

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// TestWhoseShareItIs: containers that share a namespace are one client, and others another,
// by whichever port they come; what nobody uses is forgotten with its client.
func TestWhoseShareItIs(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *router, _ *routetest.Told, _ binding.Binding) {
		a.limit = limit.New("the daemon", "", limit.Bounds{Open: 80, Reserve: ReserveOf(80)})
		a.unknown = limit.New("unknown", "", limit.Bounds{Open: 8})
		web := routetest.Labelled("web", map[string]string{"connect.80": "told://a", "connect.81": "told://a", "connect.80.target-limit": "8"})
		helper := routetest.Labelled("helper", map[string]string{"connect.82": "told://a", "connect.82.target-limit": "8"})
		helper.NetworkMode = "container:" + web.ID
		shop := routetest.Labelled("shop", map[string]string{"connect.80": "told://a", "connect.80.target-limit": "8"})
		table := a.tableOf(nil, web, helper, shop)
		a.ShareAmong(table)
		route := func(n *identity.Namespace, port uint16) proxy.Route {
			here := netip.MustParseAddr("127.0.0.1")
			r, err := a.For(n, Flow{netip.AddrPortFrom(here, 4000), netip.AddrPortFrom(here, port)})
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
		// The sidecar is made anew again and again, each time with another limit.
		had := len(a.sets.shares)
		for i := range 20 {
			helper := routetest.Labelled("helper", map[string]string{"connect.82": "told://a", "connect.82.target-limit": strconv.Itoa(9 + i)})
			helper.NetworkMode = "container:" + web.ID
			table = a.tableOf(nil, web, helper, shop)
			a.sets.keep(table)
			one = table.Owned(web.ID)
			route(one, 82)
		}
		a.sets.keep(table)
		if n := len(a.sets.shares); n > had+1 {
			t.Errorf("%d shares, of limits that are gone; had %d", n, had)
		}
		a.sets.keep(identity.Build(dockerd.NewSnapshot(), nil, "", nil, a.resolver.Parse))
		if len(a.sets.shares) != 0 {
			t.Errorf("%d shares are kept for nobody", len(a.sets.shares))
		}
	})
}
