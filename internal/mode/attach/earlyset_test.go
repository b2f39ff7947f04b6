package attach

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestEarlyPortsAreSharedFairly: a container that declares many takes the place of no other.
func TestEarlyPortsAreSharedFairly(t *testing.T) {
	resting := func(name string, first, ports int, started time.Time) *dockerd.Container {
		labels := map[string]string{}
		for i := range ports {
			labels[fmt.Sprint("connect.", first+i)] = "10.0.0.1:80"
		}
		c := routetest.Labelled(name, labels)
		c.Running, c.StartedAt = false, started
		return c
	}
	ended := time.Unix(1, 0)
	table := identity.Build(dockerd.NewSnapshot(resting("a-hostile", 1, 1000, time.Time{}), resting("b-hostile", 2001, 1000, ended),
		resting("honest", 40001, 2, ended), resting("new", 50001, 2, time.Time{})), nil, "", nil, resolver.Parse)
	ports := startersPorts(table.Starters(func(string) bool { return true }))
	has := func(number uint16) bool {
		return slices.ContainsFunc(ports, func(p netrules.Port) bool { return p.Number == number })
	}
	if len(ports) != maxEarly || !has(40001) || !has(40002) || !has(50001) || !has(50002) || !has(1) || !has(2001) {
		t.Errorf("%d ports: %v; want %d, and all of the containers that declare few", len(ports), portsOf(ports), maxEarly)
	}
	e := &earlyNamespace{ports: ports, more: make(chan struct{}, 1)}
	e.widen([]netrules.Port{{Number: 60001}})
	for first := 3001; first < 6001; first += 100 {
		var more []netrules.Port
		for i := range 100 {
			more = append(more, netrules.Port{Number: uint16(first + i)})
		}
		e.widen(more)
	}
	if declared := e.declared(); len(declared) != 2*maxEarly || declared[maxEarly].Number != 60001 {
		t.Errorf("it was widened to %d ports; want %d", len(declared), 2*maxEarly)
	}
}
