package selfdial

import (
	"net/netip"
	"sync"
	"testing"
)

// TestOwnAddressesAreBounded: addresses of our own are remembered up to a number, also when
// they come together; loopback ones are recognised however many there are.
func TestOwnAddressesAreBounded(t *testing.T) {
	var f flows
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	for i := range mostSources / 2 {
		f.noteSource(at(i))
	}
	var all sync.WaitGroup
	for i := range 2 * mostSources {
		all.Go(func() {
			f.noteSource(at(i))
			f.noteSource(netip.AddrFrom4([4]byte{127, 0, 0, byte(i)}))
		})
	}
	all.Wait()
	known := 0
	for i := range 2 * mostSources {
		if f.dialsFrom(at(i)) {
			known++
		} else if i < mostSources/2 {
			t.Errorf("%s, one of the first, is not recognised", at(i))
		}
		if addr := netip.AddrFrom4([4]byte{127, 0, 0, byte(i)}); !f.dialsFrom(addr) {
			t.Errorf("%s is not recognised", addr)
		}
	}
	if known != mostSources || len(*f.sources.Load()) != mostSources {
		t.Errorf("%d addresses are recognised, and %d remembered; want %d", known, len(*f.sources.Load()), mostSources)
	}
}
