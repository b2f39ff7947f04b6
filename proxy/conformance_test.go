package proxy

import (
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/proxy/pathtest"
)

// A client and an endpoint must not be able to tell that they are spliced.
func TestConformance(t *testing.T) {
	path := pathtest.Loopback()
	path.Through = func(t testing.TB, endpoint netip.AddrPort) netip.AddrPort {
		l := newLab(t.(*testing.T), &Server{}, to(Endpoint{Addr: endpoint}))
		return l.addr
	}
	pathtest.Run(t, pathtest.Loopback(), path)
}
