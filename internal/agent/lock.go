package agent

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
)

// lockName is the abstract socket (unix(7)) that the daemon of a host holds.
const lockName = "@ambassadord/redirect"

var errServed = errors.New("another ambassadord serves this host already")

// lock makes sure that one daemon serves this host, in any mode but link. It is an
// abstract socket, which ends with its process and lives in the network namespace, as
// what it guards does.
func lock() (unlock func(), err error) {
	listener, err := lockListener()
	if err != nil {
		return nil, err
	}
	return func() { listener.Close() }, nil
}

func lockListener() (*net.UnixListener, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: lockName, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, hint.Wrap(errServed, "stop the other one first, or start with --takeover; one daemon serves the whole host")
	}
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return listener, nil
}

// needsLock reports whether we are the daemon of a host.
func (a *agent) needsLock() bool {
	return slices.ContainsFunc(a.modes, func(m config.Mode) bool { return m != config.Link })
}

func (a *agent) hasMode(m config.Mode) bool { return slices.Contains(a.modes, m) }

// takeLock is lock for a daemon that may have received it from the one before. unlock
// lets go of our own hold alone.
func (a *agent) takeLock() (unlock func(), err error) {
	if !a.needsLock() {
		return func() {}, nil
	}
	listener := a.inherited.TakeUnix(lockName)
	if listener == nil {
		if listener, err = lockListener(); err != nil {
			return nil, err
		}
	}
	remove := a.registry.Add(handover.Socket{Role: handover.Lock}, listener)
	return func() {
		remove()
		listener.Close()
	}, nil
}
