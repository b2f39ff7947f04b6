package balance

import (
	"context"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// TestChecksOfOneAddressAreBounded: however many declare each their own check of an
// address, as often as may be, its server is asked so often and no more; and another
// address is checked as if they were not there.
func TestChecksOfOneAddressAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := New(Config{Dial: w.dial})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		victim, honest := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:80")
		for i := range 200 {
			o := Options{Check: Check{Kind: HTTPCheck, Path: "/" + strconv.Itoa(i), Interval: 100 * time.Millisecond}}
			r.Pool("theirs", o).Update(new(int), []Endpoint{{Addr: victim, Weight: 1}})
		}
		r.Pool("ours", Options{Check: Check{Kind: TCPCheck, Interval: time.Second}}).Update(new(int), []Endpoint{{Addr: honest, Weight: 1}})
		const seconds = 20
		time.Sleep(seconds * time.Second)
		if n, most := w.count(victim), (seconds+1)*checksPerAddress; n > most {
			t.Errorf("%d checks of the address in %d s; want at most %d", n, seconds, most)
		}
		if n := w.count(honest); n < seconds-2 {
			t.Errorf("%d checks of another address in %d s; want one each", n, seconds)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
