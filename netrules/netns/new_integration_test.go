//go:build integration

package netns_test

import (
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

func TestNew(t *testing.T) {
	home := current(t)
	a, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if a.ID() == home || b.ID() == home || a.ID() == b.ID() {
		t.Errorf("home %s, made %s and %s; want three", home, a.ID(), b.ID())
	}
	ids := threads(t)
	if ids[a.ID()] != 0 || ids[b.ID()] != 0 {
		t.Errorf("threads by namespace %v: some stayed in a new one", ids)
	}
	if addrs, err := a.Addrs(); err != nil || len(addrs) != 0 {
		t.Errorf("addresses %v, %v; want none while lo is down", addrs, err)
	}
	if err := a.LoopbackUp(); err != nil {
		t.Fatal(err)
	}
	if has, err := a.HasLoopback6(); err != nil || !has {
		t.Errorf("::1: %t, %v; want it", has, err)
	}
	listener, err := a.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
}
