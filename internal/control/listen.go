package control

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// Listener is a control socket, and the lock that keeps its path ours.
type Listener struct {
	*net.UnixListener
	dir  *rundir.Dir
	name string
	lock *rundir.Lock
}

// fresh is what is added to a socket's name until it takes the place of the one before.
const fresh = ".new"

// Listen listens at the socket name, a [rundir.Dir.Socket]. It fails when another process
// does. What a process that was killed has left there is removed. inherited finds the lock
// among those of the daemon before us, whose socket is replaced at once; it may be nil.
func Listen(dir *rundir.Dir, name string, inherited func(lock string) *rundir.Lock) (*Listener, error) {
	var lock *rundir.Lock
	if inherited != nil {
		lock = inherited(lockOf(name))
	}
	at := name + fresh
	if lock == nil {
		at = name // nobody listens there
		var err error
		if lock, err = dir.Take(lockOf(name)); err != nil {
			return nil, fmt.Errorf("another process has the socket %s: %w", dir.Path(name), err)
		}
	}
	l := &Listener{dir: dir, name: name, lock: lock}
	if err := l.bind(at); err != nil {
		lock.Leave()
		return nil, fmt.Errorf("listen at %s: %w", dir.Path(name), err)
	}
	return l, nil
}

// bind makes the socket, first with the name at if that is another.
func (l *Listener) bind(at string) error {
	path := l.dir.Path(at)
	if len(path)+len(fresh) >= len(unix.RawSockaddrUnix{}.Path) {
		return hint.Errorf("give a shorter --run-dir", "the path is longer than a socket's may be, %d bytes", len(unix.RawSockaddrUnix{}.Path)-1-len(fresh))
	}
	if err := l.dir.Remove(at); err != nil {
		return err
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		fix := ""
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) {
			fix = "give --run-dir a folder that can be written"
		}
		return hint.Wrap(err, fix)
	}
	listener.SetUnlinkOnClose(false)
	if at != l.name {
		if err := l.dir.Rename(at, l.name); err != nil {
			listener.Close()
			return err
		}
	}
	l.UnixListener = listener
	return nil
}

// Lock is what a successor inherits.
func (l *Listener) Lock() *rundir.Lock { return l.lock }

// Release closes the socket and removes it.
func (l *Listener) Release() {
	l.Close()
	_ = l.dir.Remove(l.name) // one that stays refuses whoever dials it
	l.lock.Release()
}

// Leave closes the socket; its path is another process's by now, or will be.
func (l *Listener) Leave() {
	l.Close()
	l.lock.Leave()
}
