// Package origdst tells where a connection was dialled before a redirect rule sent it to us.
package origdst

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// Of returns where the peer of conn dialled before a redirect rule sent
// it to us: SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST for IPv6 (ip(7),
// linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h). A connection that
// no rule touched was dialled at its local address. It neither duplicates the
// descriptor nor makes it blocking, as File would.
func Of(conn *net.TCPConn) (netip.AddrPort, error) {
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

// OfSocket is Of of the socket fd, whose peer is source. It allocates
// nothing, for a loop that asks it of every connection.
func OfSocket(fd int, source netip.Addr) (netip.AddrPort, error) {
	return OfSocketAt(fd, source, netip.AddrPort{})
}

// OfSocketAt is OfSocket of a socket that was accepted at local, which need not be
// asked for; the zero value of local if that is not known.
func OfSocketAt(fd int, source netip.Addr, local netip.AddrPort) (netip.AddrPort, error) {
	var dst netip.AddrPort
	var err error
	if source.Unmap().Is4() {
		dst, err = originalDst4(fd)
	} else {
		dst, err = originalDst6(fd)
	}
	if err == unix.ENOENT || err == unix.ENOPROTOOPT { //nolint:errorlint // they come bare
		dst, err = local, nil // no NAT here has seen the connection
		if !local.IsValid() {
			dst, err = socket.LocalAddr(fd)
		}
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	return dst, nil
}

// originalDst4 reads a struct sockaddr_in.
func originalDst4(fd int) (netip.AddrPort, error) {
	var value unix.RawSockaddrInet4
	if err := getsockopt(fd, unix.IPPROTO_IP, unix.SO_ORIGINAL_DST, unsafe.Pointer(&value), unsafe.Sizeof(value)); err != nil { //nolint:gosec // the kernel fills it
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4(value.Addr), hostOrder(value.Port)), nil
}

// originalDst6 reads a struct sockaddr_in6.
func originalDst6(fd int) (netip.AddrPort, error) {
	const ip6tOriginalDst = 80 // IP6T_SO_ORIGINAL_DST
	var value unix.RawSockaddrInet6
	if err := getsockopt(fd, unix.IPPROTO_IPV6, ip6tOriginalDst, unsafe.Pointer(&value), unsafe.Sizeof(value)); err != nil { //nolint:gosec // the kernel fills it
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(value.Addr), hostOrder(value.Port)), nil
}

// getsockopt reads an option into value. The getters of package unix return what they
// have allocated.
func getsockopt(fd, level, option int, value unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0) //nolint:gosec // the kernel fills both
	if errno != 0 {
		return errno
	}
	return nil
}

// hostOrder is a port as package net has it.
func hostOrder(network uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&network))[:]) //nolint:gosec // network byte order in a uint16
}
