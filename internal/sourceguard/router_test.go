package sourceguard

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/identity"
)

func TestIsOwn(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1":   true,
		"192.0.2.200": false, // for documentation (RFC 5737)
		"2001:db8::1": false,
	} {
		if own := IsOwn(netip.MustParseAddr(addr)); own != want {
			t.Errorf("%s is one of the host's: %t; want %t", addr, own, want)
		}
	}
}

// TestClientAtOwnAddress: nobody waits for a container that has the host's address.
func TestClientAtOwnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Router{Routing: Routing{Clients: new(identity.Latest)}}
		r.Clients.Store(&identity.Table{})
		began := time.Now()
		_, _, err := r.clientAt(t.Context(), netip.MustParseAddr("127.0.0.1"), 80, began)
		if want := "127.0.0.1 is an address of the host itself"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want %s", err, want)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %s; want no wait", took)
		}
	})
}
