package servertest

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// Nobody is an address of 127.0.0.1 at which connections are refused until the test
// ends: a socket holds the port and does not listen. A port that was only free once
// is given to the next socket that asks the kernel for any.
func Nobody(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(loopback, uint16(bound.(*unix.SockaddrInet4).Port))
}
