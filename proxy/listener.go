package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/selfdial"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// Listener is a listening socket that a Server accepts on, in whichever way: while the
// network poller of package net has a socket, each connection would wake it, too.
type Listener struct {
	own selfdial.Listener

	mu  sync.Mutex
	tcp *net.TCPListener // nil once detached or closed
	fd  int              // once detached; -1 before, and when it is closed
}

// NewListener takes tcp over.
func NewListener(tcp *net.TCPListener) *Listener {
	l := &Listener{tcp: tcp, fd: -1}
	l.own.ListensAt(tcp.Addr().(*net.TCPAddr))
	return l
}

// Elsewhere says that it listens in another network namespace than the process's own. It
// is called before Accept, and returns l.
func (l *Listener) Elsewhere() *Listener {
	l.own.Elsewhere = true
	return l
}

// Addr is where it listens, a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return l.own.Addr }

// SyscallConn is for what can be done to the descriptor as it is, with Control: whoever
// has the socket, that works until it is closed. Nobody can wait by it.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return rawListener{l}, nil }

type rawListener struct{ listener *Listener }

// Control calls do with the descriptor, unless it is closed.
func (r rawListener) Control(do func(fd uintptr)) error {
	l := r.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp != nil {
		raw, err := l.tcp.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(do)
	}
	if l.fd < 0 {
		return net.ErrClosed
	}
	do(uintptr(l.fd))
	return nil
}

// Read is not supported.
func (rawListener) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// Write is not supported.
func (rawListener) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// detach takes the socket from package net, for loops to accept on.
func (l *Listener) detach() (fd int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp == nil {
		return -1, net.ErrClosed
	}
	raw, err := l.tcp.SyscallConn()
	if err != nil {
		return -1, err
	}
	var fail error
	err = raw.Control(func(old uintptr) {
		fd, fail = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) // epoll data below that has another meaning
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

// close closes the socket, whoever has it.
func (l *Listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tcp != nil {
		l.tcp.Close()
		l.tcp = nil
		return
	}
	if l.fd >= 0 {
		socket.Close(l.fd)
		l.fd = -1
	}
}
