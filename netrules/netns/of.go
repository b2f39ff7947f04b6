package netns

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Of opens the network namespace that a socket was made in. It takes CAP_NET_ADMIN
// there.
func Of(socket syscall.Conn) (*Namespace, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	ns, errno := -1, error(nil)
	err = raw.Control(func(fd uintptr) {
		ns, errno = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) // its descriptor is close-on-exec
	})
	if err == nil {
		err = os.NewSyscallError("ioctl SIOCGSKNS", errno)
	}
	if err != nil {
		return nil, fmt.Errorf("find a socket's network namespace: %w", err)
	}
	defer func() { _ = unix.Close(ns) }()
	return Open(fmt.Sprintf("/proc/self/fd/%d", ns))
}

// IDOf is the ID of the namespace that a socket, by its descriptor, was made in. It takes
// CAP_NET_ADMIN there, and opens nothing for longer than it takes.
func IDOf(socket int) (ID, error) {
	ns, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
	if err != nil {
		return ID{}, os.NewSyscallError("ioctl SIOCGSKNS", err)
	}
	defer func() { _ = unix.Close(ns) }()
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return ID{}, os.NewSyscallError("fstat", err)
	}
	return ID{Dev: st.Dev, Inode: st.Ino}, nil
}
