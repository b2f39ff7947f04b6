package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// The weights of a list are times those that a source gives, for all who ask it.
func TestResolveListWithWeights(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		e := Endpoint{Priority: 1, Weight: map[string]uint16{"a": 2, "b": 40000, "c": 0}[q.Host]}
		e.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, q.Host[0]}), 80)
		return hold(ctx, publish, e)
	}}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		target := fake("a", "b", "c")
		target.Choices[0].Weights = []uint16{3, 2, 5}
		s, err := r.Status(ctx, target)
		if err != nil {
			t.Fatal(err)
		}
		var all, each []string
		for _, e := range s.Endpoints {
			all = append(all, fmt.Sprint(e, " ", e.Weight))
		}
		for _, q := range s.Queries {
			for _, e := range q.Endpoints {
				each = append(each, fmt.Sprint(e, " ", e.Weight))
			}
		}
		const want = "10.0.0.97:80 6, 10.0.0.98:80 65535, 10.0.0.99:80 0"
		if got := strings.Join(all, ", "); got != want {
			t.Errorf("endpoints %s; want %s", got, want)
		}
		if got := strings.Join(each, ", "); got != want {
			t.Errorf("of the queries: %s; want %s", got, want)
		}
		got, err := resolved(ctx, r, fake("a"))
		if err != nil || got[0].Weight != 2 {
			t.Errorf("another target with the same query: %v, %v; want the source's weight, 2", got, err)
		}
	})
	if n := source.calls(fakeQuery("a")); n != 1 {
		t.Errorf("the query was watched %d times; want once, whatever its weights", n)
	}
}
