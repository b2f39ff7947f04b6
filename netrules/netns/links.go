package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Links tells which interfaces a namespace has, at the price of one system call. Any
// number of goroutines may ask.
type Links struct{ socket *os.File }

// Links needs to be closed. A nil namespace is the process's own.
func (n *Namespace) Links() (*Links, error) {
	var socket *os.File
	open := func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		socket = os.NewFile(uintptr(fd), "interfaces")
		return nil
	}
	var err error
	if n == nil {
		err = open()
	} else {
		err = n.Do(open)
	}
	if err != nil {
		return nil, fmt.Errorf("make a socket in %s: %w", n.name(), err)
	}
	return &Links{socket}, nil
}

// Has reports whether there is an interface with that index now (SIOCGIFNAME,
// netdevice(7)). The kernel gives no index out again before all others were used. After
// Close there is none.
func (l *Links) Has(index int) bool {
	raw, err := l.socket.SyscallConn()
	if err != nil {
		return false
	}
	request, err := unix.NewIfreq("")
	if err != nil {
		return false
	}
	request.SetUint32(uint32(index))
	asked := raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, request) })
	return asked == nil && err == nil
}

// Close ends it.
func (l *Links) Close() error { return l.socket.Close() }
