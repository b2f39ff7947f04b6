//go:build integration

package netns_test

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

func TestListeningPorts(t *testing.T) {
	lab, other := netlab.New(t), netlab.New(t)
	for _, address := range []string{"127.0.0.1:6379", "[::1]:61000", "0.0.0.0:65535", "[::]:80"} {
		l, err := lab.NS().ListenTCP(netip.MustParseAddrPort(address))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	lab.Dial(t, "127.0.0.1:6379") // its own port is none to listen on
	got, err := lab.NS().ListeningPorts()
	if want := (map[uint16]bool{6379: true, 61000: true, 65535: true, 80: true}); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if got, err := other.NS().ListeningPorts(); err != nil || len(got) > 0 {
		t.Errorf("another namespace: %v, %v", got, err)
	}
}

func TestAccepted(t *testing.T) {
	lab := netlab.New(t)
	addresses := []string{"127.0.0.1:6379", "[::1]:6379", "127.0.0.1:6380", "127.0.0.2:6379"}
	want := map[string]map[netip.AddrPort]bool{}
	for _, address := range addresses {
		l, err := lab.NS().ListenTCP(netip.MustParseAddrPort(address))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want[address] = map[netip.AddrPort]bool{}
		for range 2 { // which nobody calls Accept for
			conn := lab.Dial(t, address)
			want[address][netip.MustParseAddrPort(conn.LocalAddr().String())] = true
		}
	}
	for _, address := range addresses {
		sources, err := lab.NS().Accepted(netip.MustParseAddrPort(address))
		got := map[netip.AddrPort]bool{}
		for _, source := range sources {
			got[source] = true
		}
		if err != nil || len(sources) != 2 || !maps.Equal(got, want[address]) {
			t.Errorf("%s: accepted %v, %v; want %v", address, sources, err, want[address])
		}
	}
}
