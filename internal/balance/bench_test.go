package balance

import (
	"fmt"
	"testing"
)

// BenchmarkPick is one Choose, Next and Cancelled, by as many goroutines as -cpu says.
func BenchmarkPick(b *testing.B) {
	for _, policy := range policies() {
		for _, shape := range []string{"equal", "weighted"} {
			for _, n := range []int{3, 100, 1000} {
				b.Run(fmt.Sprintf("%s/%s/%d", policy, shape, n), func(b *testing.B) {
					endpoints := alike(n)
					if shape == "weighted" {
						for i := range endpoints {
							endpoints[i].Weight = uint16(1 + i%7)
						}
					}
					p := newTestPool(Options{Policy: policy, EjectAfter: 3, EjectMost: 50}, endpoints...)
					b.ReportAllocs()
					b.ResetTimer()
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							c := p.Choose("0123456789ab")
							u, _ := c.Next()
							u.Cancelled()
						}
					})
				})
			}
		}
	}
}

// BenchmarkConnection is all that one connection asks of this package.
func BenchmarkConnection(b *testing.B) {
	r, o, version, endpoints := New(Config{}), Options{EjectAfter: 3}, new(int), alike(10)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p := r.Pool("redis.service.consul", o)
			p.Update(version, endpoints)
			c := p.Choose("0123456789ab")
			u, _ := c.Next()
			u.Opened()
			u.Closed(Answered)
		}
	})
}

// BenchmarkUpdate is an answer that differs in one endpoint.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := newTestPool(Options{EjectAfter: 3}, alike(n)...)
			b.ReportAllocs()
			for i := range b.N {
				p.Update(nil, alike(n + 1)[i%2:n+i%2])
			}
		})
	}
}
