package load

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Role is what a backend does with a connection.
type Role string

// What a backend can be.
const (
	Echo   Role = "echo"   // sends back what it gets
	Sink   Role = "sink"   // takes everything
	Source Role = "source" // sends without end
)

// Listener is where a backend listens, and for what.
type Listener struct {
	At   netip.AddrPort
	Role Role
}

// Serve is the backend: it serves all listeners, one thread for all, and returns only
// for a failure. ready is called once it listens.
func Serve(listeners []Listener, ready func() error) error {
	p, err := newPoller()
	if err != nil {
		return err
	}
	b := &backend{poller: p, roles: map[int]Role{}, buffer: make([]byte, chunk), zeros: make([]byte, chunk)}
	for _, l := range listeners {
		fd, err := listen(l.At)
		if err != nil {
			return err
		}
		b.roles[fd] = l.Role
		if err := p.add(fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
	if err := ready(); err != nil {
		return err
	}
	for {
		for _, event := range p.wait(-1) {
			fd := int(event.Fd)
			if role, ok := b.roles[fd]; ok {
				b.accept(fd, role)
				continue
			}
			if !b.serve(fd) {
				shut(fd)
			}
		}
	}
}

type backend struct {
	*poller
	roles         map[int]Role // of listeners
	conns         []Role       // of connections, by descriptor
	buffer, zeros []byte
}

func listen(at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return -1, fmt.Errorf("listen at %s: %w", at, err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return -1, fmt.Errorf("listen at %s: %w", at, err)
	}
	return fd, nil
}

// accept takes all who wait.
func (b *backend) accept(listener int, role Role) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno != 0 {
			return
		}
		fd := int(n)
		for len(b.conns) <= fd {
			b.conns = append(b.conns, "")
		}
		b.conns[fd] = role
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		events := uint32(unix.EPOLLIN)
		if role == Source {
			events = unix.EPOLLOUT
		}
		if b.add(fd, events) != nil {
			shut(fd)
		}
	}
}

// serve moves once; false is that the connection is over.
func (b *backend) serve(fd int) bool {
	if b.conns[fd] == Source {
		n, errno := write(fd, b.zeros)
		return n >= 0 || again(errno)
	}
	n, errno := read(fd, b.buffer)
	if n <= 0 {
		return n < 0 && again(errno)
	}
	if b.conns[fd] == Echo {
		// Requests are small and their asker waits: a socket without room for the
		// answer is not one of our loads.
		sent, _ := write(fd, b.buffer[:n])
		return sent == n
	}
	return true
}
