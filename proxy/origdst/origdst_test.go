package origdst

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// TestOfSocket says the same as Of, of sockets of each family
// and of one for both, and allocates nothing for it.
func TestOfSocket(t *testing.T) {
	for _, test := range []struct{ network, address, dial string }{
		{"tcp4", "127.0.0.1:0", "127.0.0.1"}, {"tcp6", "[::1]:0", "::1"}, {"tcp", "[::]:0", "127.0.0.1"}, {"tcp", "[::]:0", "::1"},
	} {
		listener, err := net.Listen(test.network, test.address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		client, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(test.dial), uint16(listener.Addr().(*net.TCPAddr).Port)).String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		conn := accepted.(*net.TCPConn)
		want, err := Of(conn)
		if err != nil {
			t.Fatal(err)
		}
		source := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			if got, err := OfSocket(int(fd), source); err != nil || got != want {
				t.Errorf("%v: %s, %v; want %s", test, got, err, want)
			}
			if n := testing.AllocsPerRun(100, func() { _, _ = OfSocket(int(fd), source) }); n != 0 {
				t.Errorf("%v: %v allocations; want none", test, n)
			}
		})
	}
	if _, err := OfSocket(-1, netip.IPv6Loopback()); !errors.Is(err, syscall.EBADF) {
		t.Errorf("of no socket: %v", err)
	}
}
