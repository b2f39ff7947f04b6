package control

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// Listener is a control socket, the names that it has, and the locks that keep those ours.
type Listener struct {
	*net.UnixListener
	dir   *rundir.Dir
	names []ownName
}

// ownName is a name of our socket, and the lock that stands for it.
type ownName struct {
	name string
	lock *rundir.Lock
}

// Inherited finds the lock with a name among those of the daemon before us, whose socket is
// replaced at once; nil where it has none. An Inherited may be nil.
type Inherited func(lock string) *rundir.Lock

// fresh is what is added to a socket's name until it takes the place of the one before.
const fresh = ".new"

// Listen listens at the socket name, a [rundir.Dir.Socket]. It fails when another process
// does. A socket that a killed process has left there is removed.
func Listen(dir *rundir.Dir, name string, inherited Inherited) (*Listener, error) {
	l := &Listener{dir: dir}
	if err := l.own(name, inherited, l.bind); err != nil {
		if l.UnixListener != nil { // it could not be given its name
			l.Close()
		}
		return nil, err
	}
	return l, nil
}

// Also gives the socket one more name, by a hard link: a daemon with thousands of addresses has
// one socket. It fails as Listen does.
func (l *Listener) Also(name string, inherited Inherited) error {
	return l.own(name, inherited, func(at string) error { return l.dir.Link(l.names[0].name, at) })
}

// own takes the lock of name and puts what put makes there.
func (l *Listener) own(name string, inherited Inherited, put func(at string) error) error {
	var lock *rundir.Lock
	if inherited != nil {
		lock = inherited(lockOf(name))
	}
	at := name + fresh
	if lock == nil {
		at = name // nobody listens there
		var err error
		if lock, err = l.dir.Take(lockOf(name)); err != nil {
			return fmt.Errorf("another process has the socket %s: %w", l.dir.Path(name), err)
		}
	}
	if err := l.place(at, name, put); err != nil {
		lock.Leave()
		return fmt.Errorf("listen at %s: %w", l.dir.Path(name), err)
	}
	l.names = append(l.names, ownName{name, lock})
	return nil
}

// place puts what put makes at name, first with the name at if that is another.
func (l *Listener) place(at, name string, put func(at string) error) error {
	if len(l.dir.Path(at))+len(fresh) >= len(unix.RawSockaddrUnix{}.Path) {
		return hint.Errorf("give a shorter --run-dir", "the path is longer than a socket's may be, %d bytes", len(unix.RawSockaddrUnix{}.Path)-1-len(fresh))
	}
	if err := l.dir.Remove(at); err != nil {
		return err
	}
	if err := put(at); err != nil {
		fix := ""
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) {
			fix = "give --run-dir a folder that can be written"
		}
		return hint.Wrap(err, fix)
	}
	if at == name {
		return nil
	}
	return l.dir.Rename(at, name)
}

// bind makes the socket with the name at.
func (l *Listener) bind(at string) error {
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: l.dir.Path(at), Net: "unixpacket"})
	if err != nil {
		return err
	}
	listener.SetUnlinkOnClose(false)
	l.UnixListener = listener
	return nil
}

// Locks are what a successor inherits, one for each name.
func (l *Listener) Locks() []*rundir.Lock {
	locks := make([]*rundir.Lock, len(l.names))
	for i, own := range l.names {
		locks[i] = own.lock
	}
	return locks
}

// Release closes the socket and removes it.
func (l *Listener) Release() {
	l.Close()
	for _, own := range l.names {
		_ = l.dir.Remove(own.name) // one that stays refuses a process that dials it
		own.lock.Release()
	}
}

// Leave closes the socket; its names are another process's by now, or will be.
func (l *Listener) Leave() {
	l.Close()
	for _, own := range l.names {
		own.lock.Leave()
	}
}
