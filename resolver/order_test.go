package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func weighted(addr string, priority, weight uint16) Endpoint {
	e := endpoint(addr)
	e.Priority, e.Weight = priority, weight
	return e
}

func TestOrderGoesByWeight(t *testing.T) {
	const runs = 20000
	for name, test := range map[string]struct {
		weights []uint16
		want    []float64 // the share in which each comes first
	}{
		"one to three":             {[]uint16{1, 3}, []float64{0.25, 0.75}},
		"none at all":              {[]uint16{0, 0}, []float64{0.5, 0.5}},
		"none beside some":         {[]uint16{0, 10}, []float64{0.001, 0.999}},
		"as wide as they can be":   {[]uint16{1, 65535}, []float64{0, 1}},
		"more than fit the buffer": {make([]uint16, 40), nil},
	} {
		var endpoints []Endpoint
		for i, w := range test.weights {
			e := weighted(firstAddr, 1, w)
			e.Port = uint16(i) // tells them apart
			endpoints = append(endpoints, e)
		}
		first := make([]int, len(endpoints))
		for range runs {
			order(endpoints)
			first[endpoints[0].Port]++
		}
		for i, n := range first {
			want := 1 / float64(len(first))
			if test.want != nil {
				want = test.want[i]
			}
			if share := float64(n) / runs; share < want-0.02 || share > want+0.02 { // over 5 standard deviations
				t.Errorf("%s: %d came first in %.3f of all; want %.3f", name, i, share, want)
			}
		}
	}
}

// The weights of a list are times those that a source gives, for all who ask it.
func TestResolveListWithWeights(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		e := weighted(firstAddr, 1, map[string]uint16{"a": 2, "b": 40000, "c": 0}[q.Host])
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
		got, err := r.Resolve(ctx, fake("a"))
		if err != nil || got[0].Weight != 2 {
			t.Errorf("another target with the same query: %v, %v; want the source's weight, 2", got, err)
		}
	})
	if n := source.calls(fakeQuery("a")); n != 1 {
		t.Errorf("the query was watched %d times; want once, whatever its weights", n)
	}
}

// BenchmarkResolve is the resolver's part of one connection: a warm target of ten
// endpoints, asked from all processors at once.
func BenchmarkResolve(b *testing.B) {
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		var endpoints []Endpoint
		for i := range 10 {
			e := weighted(firstAddr, 1, uint16(i))
			e.Name = "an instance"
			endpoints = append(endpoints, e)
		}
		return hold(ctx, publish, endpoints...)
	}}
	r := New(map[string]Source{"fake": source}, Options{})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for name, target := range map[string]Target{"one": fake("a"), "chain": chain("a", "b")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := r.Resolve(ctx, target); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
