// Package systemd talks to the service manager that has started us, if one has: it takes
// the sockets that come with the process, puts ours into the unit's descriptor store, and
// says when we are ready (sd_listen_fds(3), sd_notify(3), systemd.service(5)).
//
// A descriptor in the store outlives our process. So the next one of the unit goes on with it,
// and a client that dials meanwhile waits in the socket's queue instead of being refused.
//
// go-systemd reads what comes with the process. It cannot send descriptors with a
// notification, so those are sent from here.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// patience bounds a notification: a manager that hangs must not hold us up.
const patience = 5 * time.Second

// Received are the descriptors that came with this process, by name; several may have
// the same, or "LISTEN_FD_3" and so on where they were given none. They are the caller's
// then, and no child of ours inherits them or hears of them.
func Received() []*os.File { return activation.Files(true) }

// Manager is the service manager. A nil Manager is none: every method does nothing.
type Manager struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// FromEnvironment finds the manager of this process by NOTIFY_SOCKET, which it hides from
// our children: they have nothing to say. It is nil where nobody wants to hear.
func FromEnvironment() (*Manager, error) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil, nil
	}
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		return nil, err
	}
	// One that begins with @ is an abstract socket, to Go as to systemd.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("reach the service manager at NOTIFY_SOCKET: %w", err)
	}
	return &Manager{conn: conn}, nil
}

// Ready says that we serve. As the main process, if we have taken over from that.
func (m *Manager) Ready(main bool) error {
	if main {
		return m.send(nil, "READY=1", fmt.Sprintf("MAINPID=%d", os.Getpid()))
	}
	return m.send(nil, "READY=1")
}

// Stopping says that we stop.
func (m *Manager) Stopping() error { return m.send(nil, "STOPPING=1") }

// Reloading says that we read our configuration again; Ready has to follow.
func (m *Manager) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return os.NewSyscallError("clock_gettime", err)
	}
	return m.send(nil, "RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond)))
}

// Store puts a descriptor, which stays ours, into the unit's store, where there is one. A
// name has at most 255 bytes of printable ASCII without a colon.
func (m *Manager) Store(name string, fd int) error {
	// FDPOLL=0: that a listening socket has an error or a hang-up is no reason to drop it.
	return m.send(unix.UnixRights(fd), "FDSTORE=1", "FDNAME="+name, "FDPOLL=0")
}

// Remove takes what is called so out of the store.
func (m *Manager) Remove(name string) error { return m.send(nil, "FDSTOREREMOVE=1", "FDNAME="+name) }

func (m *Manager) send(oob []byte, lines ...string) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.conn.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		err = m.write([]byte(strings.Join(lines, "\n")), oob)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("tell the service manager %s: %w", lines[0], err)
	}
	return nil
}

// write is WriteMsgUnix, which a connected datagram socket has not.
func (m *Manager) write(text, oob []byte) error {
	raw, err := m.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), text, oob, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}

// Close ends the talk.
func (m *Manager) Close() {
	if m != nil {
		m.conn.Close()
	}
}
