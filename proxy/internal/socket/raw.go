package socket

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of a loop, all of them on sockets and pipes that do not block: raw, because
// the scheduler need not hear of calls that return at once, and without the allocations
// that addresses cost elsewhere. Each is made again when a signal came in between.

// Accept accepts a connection and says from where it comes; IPv4 addresses are never
// mapped to IPv6.
func Accept(listener int) (fd int, from netip.AddrPort, err error) {
	var addr unix.RawSockaddrInet6 // has room for a RawSockaddrInet4
	for {
		size := uint32(unsafe.Sizeof(addr))
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener),
			uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			return int(n), addrPort(&addr), nil
		case unix.EINTR:
		default:
			return -1, netip.AddrPort{}, errno
		}
	}
}

// addrPort is what the kernel wrote as a sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)).
func addrPort(addr *unix.RawSockaddrInet6) netip.AddrPort {
	if addr.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(addr))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), networkOrder(v4.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(addr.Addr).Unmap(), networkOrder(addr.Port))
}

// networkOrder turns a port from and to the order in which the network has its bytes.
func networkOrder(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// Connect begins to connect a socket; EINPROGRESS is how that usually ends.
func Connect(fd int, to netip.AddrPort) error {
	var errno unix.Errno
	if ip := to.Addr().Unmap(); ip.Is4() {
		addr := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(to.Port()), Addr: ip.As4()}
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
	} else {
		addr := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(to.Port()), Addr: ip.As16()}
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// New makes a TCP socket that does not block.
func New(family int) (int, error) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// SetInt sets an option whose value is an int. It fails only where the kernel does not
// know the option.
func SetInt(fd, level, option int, value int32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
}

// AtMark says whether the next byte is the urgent one (sockatmark(3)).
func AtMark(fd int) bool {
	var mark int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCATMARK, uintptr(unsafe.Pointer(&mark)))
	return errno == 0 && mark != 0
}

// Receive reads what is there; b is not empty.
func Receive(fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// Send writes what there is room for; b is not empty.
func Send(fd int, b []byte, flags int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			uintptr(unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL|flags), 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// Splice moves at most that many bytes between a socket and a pipe (splice(2)).
func Splice(from, to, most int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// EpollWait is epoll_wait(2).
func EpollWait(epoll int, events []unix.EpollEvent, milliseconds int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(milliseconds), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Shutdown ends the stream that we send.
func Shutdown(fd int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0); errno != 0 {
		return errno
	}
	return nil
}

// Close closes a descriptor.
func Close(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// EpollControl adds, changes or removes fd in an epoll set.
func EpollControl(epoll, operation, fd int, event *unix.EpollEvent) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(operation), uintptr(fd), uintptr(unsafe.Pointer(event)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// LocalAddr is the address of the socket fd, an IPv4 one as such; it allocates nothing.
func LocalAddr(fd int) (netip.AddrPort, error) {
	var addr unix.RawSockaddrInet6 // has room for a RawSockaddrInet4
	size := uint32(unsafe.Sizeof(addr))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return addrPort(&addr), nil
}
