//go:build integration

package netns_test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

func TestDialTCP(t *testing.T) {
	lab, elsewhere := netlab.New(t), netlab.New(t)
	for _, loopback := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := lab.NS().ListenTCP(netip.MustParseAddrPort(loopback))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		addr := netip.MustParseAddrPort(l.Addr().String())
		conn, err := lab.NS().DialTCP(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if mptcp, err := conn.MultipathTCP(); mptcp || err != nil {
			t.Errorf("%s: MPTCP %v, %v", addr, mptcp, err)
		}
		accepted, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = accepted.Close() })
		if got, want := accepted.RemoteAddr().String(), conn.LocalAddr().String(); got != want {
			t.Errorf("accepted %s, dialled from %s", got, want)
		}
		if _, err := elsewhere.NS().DialTCP(t.Context(), addr); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s dialled from elsewhere: %v; want it refused", addr, err)
		}
	}
}
