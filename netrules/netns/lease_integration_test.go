//go:build integration

package netns_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

func TestLease(t *testing.T) {
	lab := netlab.New(t)
	show := func() string { return lab.Run(t, "", "ip", "addr", "show", "lo") }
	before := show()
	wantLeases := func(want ...netip.Addr) {
		t.Helper()
		if got, err := lab.NS().Leases(); err != nil || !slices.Equal(got, want) {
			t.Errorf("Leases() = %v, %v; want %v", got, err, want)
		}
	}
	for _, text := range []string{"169.254.77.1", "fd61:6d62:6173::1"} {
		addr := netip.MustParseAddr(text)
		wantLeases()
		lease := func(d time.Duration, want bool) {
			t.Helper()
			if ours, err := lab.NS().Lease(addr, d); err != nil || ours != want {
				t.Fatalf("Lease(%s, %s) = %t, %v; want %t", addr, d, ours, err, want)
			}
		}
		lease(time.Hour, true)
		lease(time.Hour, true)
		if got := show(); strings.Count(got, text+"/") != 1 || !strings.Contains(got, "scope host") || !strings.Contains(got, "deprecated") {
			t.Errorf("leased %s:\n%s", text, got)
		}
		wantLeases(addr)
		listener, err := lab.NS().ListenTCP(netip.AddrPortFrom(addr, 0)) // usable at once
		if err != nil {
			t.Fatal(err)
		}
		lab.Dial(t, listener.Addr().String())
		_ = listener.Close()
		for range 2 { // a second end changes nothing
			if err := lab.NS().EndLease(addr); err != nil {
				t.Error(err)
			}
		}
		if got := show(); got != before {
			t.Errorf("after EndLease(%s):\n%s\nwant\n%s", text, got, before)
		}

		// What nobody renews goes by itself.
		lease(time.Second, true)
		for deadline := time.Now().Add(20 * time.Second); show() != before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("still there:\n%s", show())
			}
		}

		// Somebody else's stays.
		lab.Run(t, "", "ip", "addr", "add", text, "dev", "lo")
		theirs := show()
		lease(time.Hour, false)
		if err := lab.NS().EndLease(addr); err != nil {
			t.Error(err)
		}
		wantLeases()
		if got := show(); got != theirs {
			t.Errorf("somebody else's %s became\n%s\nwant\n%s", text, got, theirs)
		}
		lab.Run(t, "", "ip", "addr", "del", netip.PrefixFrom(addr, addr.BitLen()).String(), "dev", "lo")
	}
}
