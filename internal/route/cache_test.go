package route

import (
	"net/netip"
	"testing"
)

// TestCacheIsBounded, and keeps nothing that was made from something else.
func TestCacheIsBounded(t *testing.T) {
	var cache Cache[netip.Addr]
	one, other := Basis{service: new(int)}, Basis{service: new(int)}
	for i := range 3 * mostCached {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		c := new(Cached)
		if cache.Add(one, addr, c); cache.Find(one, addr) != c {
			t.Fatalf("what was kept for %s is not found", addr)
		}
		if cache.Find(other, addr) != nil {
			t.Fatal("a route is found that was made from something else")
		}
	}
	if n := len(cache.all); n > mostCached {
		t.Errorf("%d clients are remembered; want at most %d", n, mostCached)
	}
	last := netip.MustParseAddr("10.9.9.9")
	cache.Add(other, last, new(Cached))
	if len(cache.all) != 1 {
		t.Errorf("%d routes; want the one that was made from what holds now", len(cache.all))
	}
}
