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
