package netns

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Links tells which interfaces a namespace has, at the price of one system call. Any
// number of goroutines may ask.
type Links struct {
	socket *os.File
	raw    syscall.RawConn // of socket; it knows when that is closed
}

// Links needs to be closed. A nil namespace is the process's own.
func (n *Namespace) Links() (*Links, error) {
	var l Links
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		l.socket = os.NewFile(uintptr(fd), "interfaces")
		l.raw, err = l.socket.SyscallConn()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a socket in %s: %w", n.Name(), err)
	}
	return &l, nil
}

// Has reports whether there is an interface with that index now (SIOCGIFNAME,
// netdevice(7)). The kernel gives no index out again before all others were used. After
// Close there is none.
func (l *Links) Has(index int) bool {
	request, err := unix.NewIfreq("")
	if err != nil {
		return false
	}
	request.SetUint32(uint32(index))
	asked := l.raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, request) })
	return asked == nil && err == nil
}

// Close ends it.
func (l *Links) Close() error { return l.socket.Close() }
