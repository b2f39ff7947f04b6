package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OriginalDst returns where the peer of conn dialled before a redirect rule sent
// it to us: SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST for IPv6 (ip(7),
// linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h). A connection that
// no rule touched was dialled at its local address. It neither duplicates the
// descriptor nor makes it blocking, as File would.
func OriginalDst(conn *net.TCPConn) (netip.AddrPort, error) {
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	var dst netip.AddrPort
	var errno error
	err = raw.Control(func(fd uintptr) {
		if local.Addr().Is4() {
			dst, errno = originalDst4(int(fd))
		} else {
			dst, errno = originalDst6(int(fd))
		}
	})
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	case errors.Is(errno, unix.ENOENT), errors.Is(errno, unix.ENOPROTOOPT):
		return local, nil // no NAT here has seen the connection
	case errno != nil:
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", errno)
	}
	return dst, nil
}

// originalDst4 reads a struct sockaddr_in. The type of the getter is another
// that is at least as large; only the bytes matter.
func originalDst4(fd int) (netip.AddrPort, error) {
	value, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := value.Multiaddr
	port := binary.BigEndian.Uint16(b[2:4])
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), nil
}

// originalDst6 reads a struct sockaddr_in6.
func originalDst6(fd int) (netip.AddrPort, error) {
	const ip6tOriginalDst = 80 // IP6T_SO_ORIGINAL_DST
	value, err := unix.GetsockoptIPv6MTUInfo(fd, unix.IPPROTO_IPV6, ip6tOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&value.Addr.Port))[:]) //nolint:gosec // network byte order in a uint16
	return netip.AddrPortFrom(netip.AddrFrom16(value.Addr.Addr), port), nil
}
