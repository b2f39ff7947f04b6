package load

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is an epoll, level-triggered.
type poller struct {
	fd     int
	events [512]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	return &poller{fd: fd}, nil
}

func (p *poller) add(fd int, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event)
}

func (p *poller) modify(fd int, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &event)
}

// wait returns what has happened, or nothing after the time is over; less than 0
// is for ever. It blocks its thread without telling Go's scheduler, which has
// nothing else to do.
func (p *poller) wait(patience time.Duration) []unix.EpollEvent {
	ms := -1
	if patience >= 0 {
		ms = int(patience.Milliseconds()) + 1
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_WAIT, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(ms), 0, 0) //nolint:gosec // used in the call
	if errno != 0 { // EINTR: the runtime's signals
		return nil
	}
	return p.events[:n]
}

// read and write return less than 0 where the socket has nothing, or no room, now,
// and for every failure errno says why.
func read(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))) //nolint:gosec // the address is used in the call
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}

func write(fd int, b []byte) (int, unix.Errno) {
	// MSG_NOSIGNAL: a connection that the proxy has reset is no reason to die.
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0) //nolint:gosec // the address is used in the call
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}

func again(errno unix.Errno) bool { return errno == unix.EAGAIN || errno == unix.EINTR }

func shut(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// dial begins a connection without waiting for it. from, where it is valid, is the
// address it leaves from; the port is chosen at connect, when the destination is
// known, so that ports do not run out early (IP_BIND_ADDRESS_NO_PORT, ip(7)).
func dial(from netip.Addr, to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := start(fd, from, to); err != nil {
		shut(fd)
		return -1, err
	}
	return fd, nil
}

func start(fd int, from netip.Addr, to netip.AddrPort) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	if from.IsValid() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
			return fmt.Errorf("bind to %s: %w", from, err)
		}
	}
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	return nil
}

// dialAll opens n connections and waits until each is there.
func dialAll(n int, to netip.AddrPort) ([]int, error) {
	fds := make([]int, 0, n)
	for range n {
		fd, err := dial(netip.Addr{}, to)
		if err != nil {
			return nil, err
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if got, err := unix.Poll(ready, 5000); got != 1 {
			return nil, fmt.Errorf("connect to %s: not there within 5s (%w)", to, cmpErr(err, unix.ETIMEDOUT))
		}
		if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			return nil, fmt.Errorf("connect to %s: %w", to, cmpErr(err, unix.Errno(code)))
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
