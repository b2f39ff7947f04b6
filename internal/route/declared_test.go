package route

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// TestDeclaredIsWhatAllHaveBound, after any changes.
func TestDeclaredIsWhatAllHaveBound(t *testing.T) {
	a := newRouter(t.Context(), resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{}))
	random := rand.New(rand.NewPCG(1, 2))
	containers := map[string]*dockerd.Container{}
	var d declared
	var table *identity.Table
	for step := range 300 {
		name := fmt.Sprint("c", random.IntN(6))
		if random.IntN(3) == 0 {
			delete(containers, name)
		} else {
			labels := map[string]string{}
			for range random.IntN(4) {
				labels[fmt.Sprint("connect.", random.IntN(5)+1)] = fmt.Sprintf("10.0.0.%d:80", random.IntN(4))
			}
			labels["connect.9"] = "a mistake"
			containers[name] = routetest.Labelled(name, labels)
		}
		before := d.byOwner()
		table = identity.Build(dockerd.NewSnapshot(slices.Collect(maps.Values(containers))...), table, "", nil, a.resolver.Parse)
		changed := d.follow(table)

		want, sets := map[string]int{}, map[setKey]int{}
		for _, c := range table.Clients() {
			for _, b := range c.Bindings.All() {
				sets[setKey{b.Text, b.Options}]++
				if b.Problem == nil {
					want[b.Text]++
				}
			}
		}
		if got := d.meanings; !maps.Equal(got, want) || !maps.Equal(d.sets, sets) || len(d.clients) != len(table.Clients()) {
			t.Fatalf("step %d: %v, %v, %d clients\nwant %v, %v, %d", step, d.meanings, d.sets, len(d.clients), want, sets, len(table.Clients()))
		}
		if after := d.byOwner(); !changed && !slices.EqualFunc(before, after, sameOwned) {
			t.Fatalf("step %d: %v became %v, unnoticed", step, before, after)
		}
		if d.follow(table) {
			t.Fatalf("step %d: the same table has changed something", step)
		}
	}
}

// sameOwned reports whether a and b are the same targets of one client, in any order.
func sameOwned(a, b resolver.Owned) bool {
	texts := func(o resolver.Owned) []string {
		var out []string
		for _, t := range o.Targets {
			out = append(out, t.String())
		}
		slices.Sort(out)
		return out
	}
	return a.Owner == b.Owner && slices.Equal(texts(a), texts(b))
}
