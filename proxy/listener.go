package proxy

import (
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listener is a listening socket that a Server accepts on, in whichever way: while the
// network poller of package net has a socket, each connection would wake it, too.
type Listener struct {
	addr   *net.TCPAddr
	closed chan struct{}

	mu  sync.Mutex
	tcp *net.TCPListener // nil once detached or closed
	fd  int              // once detached; -1 before, and when it is closed
}

// NewListener takes tcp over: nobody else uses it any more.
func NewListener(tcp *net.TCPListener) *Listener {
	return &Listener{addr: tcp.Addr().(*net.TCPAddr), closed: make(chan struct{}), tcp: tcp, fd: -1}
}

// Addr is where it listens, a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return l.addr }

// Close stops accepting. It does not wait for that.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		return net.ErrClosed
	default:
	}
	close(l.closed)
	if l.tcp != nil {
		return l.tcp.Close()
	}
	return nil // the Serve that has detached it closes it
}

// detach takes the socket from package net, for loops to accept on.
func (l *Listener) detach() (fd int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp == nil || l.isClosed() {
		return -1, net.ErrClosed
	}
	raw, err := l.tcp.SyscallConn()
	if err != nil {
		return -1, err
	}
	var fail error
	err = raw.Control(func(old uintptr) {
		fd, fail = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil {
		return -1, err
	}
	if fail != nil {
		return -1, fmt.Errorf("duplicate the listening socket: %w", fail)
	}
	l.tcp.Close()
	l.tcp, l.fd = nil, fd
	return fd, nil
}

// release closes what detach has returned.
func (l *Listener) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	closeRaw(l.fd)
	l.fd = -1
	if !l.isClosed() {
		close(l.closed)
	}
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// SyscallConn gives access to the socket, by Control alone.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return listenerControl{l}, nil }

type listenerControl struct{ l *Listener }

// Control calls f with the socket, which is not closed meanwhile.
func (c listenerControl) Control(f func(fd uintptr)) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	switch {
	case c.l.tcp != nil:
		raw, err := c.l.tcp.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(f)
	case c.l.fd < 0:
		return net.ErrClosed
	}
	f(uintptr(c.l.fd))
	return nil
}

// Read is not for listening sockets.
func (listenerControl) Read(func(fd uintptr) bool) error { return syscall.EINVAL }

// Write is not for listening sockets.
func (listenerControl) Write(func(fd uintptr) bool) error { return syscall.EINVAL }
