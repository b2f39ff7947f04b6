// Package handover passes the listening sockets of one daemon to the next.
//
// A listening socket, with the connections that wait in it, belongs to every process
// that has a descriptor of it. So the next daemon receives a descriptor of each, by the
// control socket or from systemd, and accepts; only then the old one closes its own.
// Nobody who dials meanwhile is refused, and the port is the same, so the rules that
// lead there stay as they are.
//
//	old daemon                                       new daemon
//	Registry.Add ─┐                                  ┌─ Set.Take
//	              └ Give ──sockets──► Session ───────┘
//	                     ◄─accepting─
//	                     ──late sockets, done──►
//
// A [Socket] names the use of a socket and its network namespace; its address is read from the
// socket itself.
package handover

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Role is what a socket is for.
type Role string

// The roles. All name TCP sockets but Guard, which is a Unix socket, and LockFile.
const (
	Fixed    Role = "fixed"    // a listener with one target
	Redirect Role = "redirect" // of mode redirect, inside a container
	Listen   Role = "listen"   // of mode listen, inside a container
	Host     Role = "host"     // a listener of mode host
	Link     Role = "link"     // of mode link
	LockFile Role = "lockfile" // a lock of internal/rundir
	// Guard is the abstract name that older daemons have as their lock. They send
	// their control sockets, too ("control"), which nobody takes.
	Guard Role = "lock"
)

// Socket describes a listening socket. It is comparable.
type Socket struct {
	Role Role `json:"role"`
	// Namespace is the container's, and zero for our own.
	Namespace netns.ID `json:"namespace,omitzero"`
}

// Set are sockets that were received and nobody has taken yet. A nil Set is empty.
type Set struct {
	mu    sync.Mutex
	tcp   map[Socket][]*net.TCPListener
	unix  map[string]*net.UnixListener // by name
	files []*os.File                   // of locks
}

// NewSet makes an empty Set.
func NewSet() *Set {
	return &Set{tcp: map[Socket][]*net.TCPListener{}, unix: map[string]*net.UnixListener{}}
}

// Add adds the socket of a descriptor, which it takes over.
func (s *Set) Add(socket Socket, fd int) error {
	return s.AddFile(socket, os.NewFile(uintptr(fd), string(socket.Role)+" socket"))
}

// AddFile adds the socket of a file, which it takes over.
func (s *Set) AddFile(socket Socket, file *os.File) error {
	if socket.Role == LockFile {
		return s.addLock(file)
	}
	defer file.Close() // the listener has a descriptor of its own
	if accepts, err := unix.GetsockoptInt(int(file.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || accepts == 0 {
		return fmt.Errorf("what came as a %s socket does not listen", socket.Role)
	}
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("a %s socket: %w", socket.Role, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch l := listener.(type) {
	case *net.TCPListener:
		s.tcp[socket] = append(s.tcp[socket], l)
	case *net.UnixListener:
		l.SetUnlinkOnClose(false)
		s.unix[l.Addr().String()] = l
	default:
		listener.Close()
		return fmt.Errorf("a %s socket is a %T", socket.Role, listener)
	}
	return nil
}

func (s *Set) addLock(file *os.File) error {
	st, err := file.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("what came as a lock is no file: %s", st.Mode().Type())
	}
	if err != nil {
		file.Close()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = append(s.files, file)
	return nil
}

// TakeLock takes the lock of that name; nil if there is none.
func (s *Set) TakeLock(dir *rundir.Dir, name string) *rundir.Lock {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, file := range s.files {
		if l, ok := dir.Adopt(name, file); ok {
			s.files = slices.Delete(s.files, i, i+1)
			return l
		}
	}
	return nil
}

// Take takes the socket that listens where fits says; nil if there is none.
func (s *Set) Take(socket Socket, fits func(netip.AddrPort) bool) *net.TCPListener {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.tcp[socket]
	for i, l := range all {
		if fits(AddrOf(l)) {
			s.tcp[socket] = append(all[:i:i], all[i+1:]...)
			if len(s.tcp[socket]) == 0 {
				delete(s.tcp, socket)
			}
			return l
		}
	}
	return nil
}

// TakeUnix takes the Unix socket of that name; nil if there is none.
func (s *Set) TakeUnix(name string) *net.UnixListener {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.unix[name]
	delete(s.unix, name)
	return l
}

// Left is a socket that nobody has taken.
type Left struct {
	Socket
	Listener *net.TCPListener
}

// Rest takes all that is left; locks and Unix sockets are closed.
func (s *Set) Rest() []Left { return s.RestOf(func(Socket) bool { return true }) }

// RestOf is Rest for those that of accepts.
func (s *Set) RestOf(of func(Socket) bool) []Left {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []Left
	for socket, all := range s.tcp {
		if !of(socket) {
			continue
		}
		for _, l := range all {
			rest = append(rest, Left{Socket: socket, Listener: l})
		}
		delete(s.tcp, socket)
	}
	for _, l := range s.unix {
		l.Close()
	}
	clear(s.unix)
	for _, file := range s.files {
		file.Close()
	}
	s.files = nil
	return rest
}

// Close closes all that is left.
func (s *Set) Close() {
	for _, l := range s.Rest() {
		l.Listener.Close()
	}
}

// AddrOf is where a socket listens.
func AddrOf(l *net.TCPListener) netip.AddrPort {
	a := l.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// At fits a socket at address, HOST:PORT as it is configured: no host is every address.
func At(address string) func(netip.AddrPort) bool {
	host, port, err := net.SplitHostPort(address)
	return func(a netip.AddrPort) bool {
		if err != nil || fmt.Sprint(a.Port()) != port {
			return false
		}
		if host == "" {
			return a.Addr().IsUnspecified()
		}
		want, err := netip.ParseAddr(strings.Trim(host, "[]"))
		return err == nil && want.Unmap().WithZone("") == a.Addr()
	}
}

// duplicate is a new descriptor of a socket, which File would make too, but block. It
// fails if the socket has been closed, or no descriptor is left.
func duplicate(conn syscall.Conn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup, dupErr := -1, error(nil)
	if err := raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, net.ErrClosed // the only way for it to fail
	}
	return dup, dupErr
}
