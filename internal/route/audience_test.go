package route

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// TestAudienceCostsWhatHasChanged: on a host of a hundred containers with a hundred ports
// each, one that comes and goes does not have all of them looked at again for each check and
// each connection to a registry.
func TestAudienceCostsWhatHasChanged(t *testing.T) {
	a := newRouter(t.Context(), resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{}))
	containers := make([]*dockerd.Container, 100)
	for i := range containers {
		labels := map[string]string{}
		for j := range 100 {
			labels[fmt.Sprint("connect.", j+1)] = fmt.Sprintf("10.0.%d.%d:80", i, j)
		}
		containers[i] = routetest.Labelled(fmt.Sprint("c", i), labels)
	}
	// As the daemon does at an event.
	follow := func() {
		a.Follow(a.tableOf(nil, containers...))
	}
	follow()
	ask := func() {
		there := netip.MustParseAddrPort("10.0.7.7:80")
		if err := a.audience.MayCheck(there.String())(there, false); err != nil {
			t.Fatal(err)
		}
		if err := a.audience.MayCheck(there.String())(netip.MustParseAddrPort("127.0.0.1:80"), false); err == nil {
			t.Fatal("loopback may be checked")
		}
	}
	ask()
	event := func(then func()) float64 {
		return testing.AllocsPerRun(5, func() {
			changed := *containers[0]
			containers[0] = &changed
			follow()
			then()
		})
	}
	if alone, asked := event(func() {}), event(ask); asked-alone > 1000 {
		t.Errorf("%.0f allocations to know who declares one of 10,000 targets after an event; want those for the 100 clients alone", asked-alone)
	}
}
