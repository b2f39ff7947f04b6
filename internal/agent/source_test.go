package agent

import (
	"net/netip"
	"testing"
)

func TestIsOwn(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1":   true,
		"192.0.2.200": false, // for documentation (RFC 5737)
		"2001:db8::1": false,
	} {
		if own := isOwn(netip.MustParseAddr(addr)); own != want {
			t.Errorf("%s is one of the host's: %t; want %t", addr, own, want)
		}
	}
}
