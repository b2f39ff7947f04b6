package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// TestAudienceCostsWhatHasChanged: on a host of a hundred containers with a hundred ports
// each, one that comes and goes does not have all of them looked at again for each check and
// each connection to a registry.
func TestAudienceCostsWhatHasChanged(t *testing.T) {
	a, _ := following(t)
	containers := make([]*dockerd.Container, 100)
	for i := range containers {
		labels := map[string]string{}
		for j := range 100 {
			labels[fmt.Sprint("connect.", j+1)] = fmt.Sprintf("10.0.%d.%d:80", i, j)
		}
		containers[i] = labelled(fmt.Sprint("c", i), labels)
	}
	a.show(t.Context(), containers...)
	ask := func() {
		there := netip.MustParseAddrPort("10.0.7.7:80")
		if err := a.mayCheck(there.String())(there, false); err != nil {
			t.Fatal(err)
		}
		if err := a.mayCheck(there.String())(netip.MustParseAddrPort("127.0.0.1:80"), false); err == nil {
			t.Fatal("loopback may be checked")
		}
	}
	ask()
	event := func(then func()) float64 {
		return testing.AllocsPerRun(5, func() {
			changed := *containers[0]
			containers[0] = &changed
			a.show(t.Context(), containers...)
			then()
		})
	}
	if alone, asked := event(func() {}), event(ask); asked-alone > 1000 {
		t.Errorf("%.0f allocations to know who declares one of 10,000 targets after an event; want those for the 100 clients alone", asked-alone)
	}
}
