package rundir

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// ErrHeld says that another process has a lock.
var ErrHeld = errors.New("another process has it")

const (
	// lockPatience is how long a lock may be taken until it counts as somebody's: who
	// looks whether it is, takes it for a moment.
	lockPatience = 200 * time.Millisecond
	// lockTries bounds how often a lock file may be removed while we take it.
	lockTries = 50
)

// Lock is a file under flock(2). The lock belongs to the open file, so it is handed to
// another process with a descriptor, and ends when the last of those is closed: at the
// latest with the process, however that ends.
type Lock struct {
	dir  *Dir
	name string
	file *os.File
}

// Take takes the lock name, ErrHeld if somebody has it. It waits a moment for who only
// looks.
func (d *Dir) Take(name string) (*Lock, error) {
	until := time.Now().Add(lockPatience)
	for range lockTries {
		l, err := d.take(name, unix.O_CREAT)
		switch {
		case errors.Is(err, errReplaced):
			continue
		case errors.Is(err, ErrHeld) && time.Now().Before(until):
			time.Sleep(lockPatience / 20)
			continue
		}
		return l, err
	}
	return nil, fmt.Errorf("lock %s: %w", d.Path(name), ErrHeld)
}

var errReplaced = errors.New("the file was removed meanwhile")

// take takes the lock at once or not at all.
func (d *Dir) take(name string, flags int) (*Lock, error) {
	var l *Lock
	err := d.with(flags&unix.O_CREAT != 0, func(folder int) error {
		fd, err := unix.Openat(folder, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0o600)
		if errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "open", Path: d.Path(name), Err: err}
		}
		if err != nil {
			return unmakeable(d.Path(name), err)
		}
		file := os.NewFile(uintptr(fd), d.Path(name))
		if err = d.lock(folder, fd, name); err != nil {
			file.Close()
			return err
		}
		l = &Lock{dir: d, name: name, file: file}
		return nil
	})
	return l, err
}

func (d *Dir) lock(folder, fd int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: d.Path(name), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return hint.Errorf("it is none of ours: remove it", "%s is no plain file", d.Path(name))
	}
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: %w", d.Path(name), ErrHeld)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", d.Path(name), err)
	}
	// Its last holder may have removed it while we waited: the lock would be nobody's.
	if !isAt(folder, name, st) {
		return errReplaced
	}
	return nil
}

func isAt(folder int, name string, st unix.Stat_t) bool {
	var there unix.Stat_t
	err := unix.Fstatat(folder, name, &there, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && there.Dev == st.Dev && there.Ino == st.Ino
}

// Adopt makes a Lock of the file of one that another process has handed us. It reports
// whether file is the one called name; it is the caller's still if not.
func (d *Dir) Adopt(name string, file *os.File) (*Lock, bool) {
	same := false
	err := d.with(false, func(folder int) error {
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err != nil {
			return err
		}
		same = isAt(folder, name, st)
		return nil
	})
	if err != nil || !same {
		return nil, false
	}
	return &Lock{dir: d, name: name, file: file}, true
}

// File is what to hand to another process, which Adopts it.
func (l *Lock) File() *os.File { return l.file }

// Leave lets go of our hold alone: another process has one, too.
func (l *Lock) Leave() { l.file.Close() }

// Release removes the file and lets go of it. Nobody else may have it from us.
func (l *Lock) Release() {
	_ = l.dir.Remove(l.name) // a file that stays is nobody's
	l.file.Close()
}

// Remove removes a file. The caller has the lock that stands for it.
func (d *Dir) Remove(name string) error {
	return d.with(false, func(folder int) error {
		if err := unix.Unlinkat(folder, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return hint.Wrap(fmt.Errorf("remove %s: %w", d.Path(name), err), "remove it")
		}
		return nil
	})
}

// Rename gives a file another name, in place of what has that. The caller has the lock
// that stands for both.
func (d *Dir) Rename(from, to string) error {
	return d.with(false, func(folder int) error {
		if err := unix.Renameat(folder, from, folder, to); err != nil {
			return hint.Wrap(fmt.Errorf("rename %s to %s: %w", d.Path(from), d.Path(to), err), "remove it")
		}
		return nil
	})
}

// Link gives a file, a socket say, one more name. The caller has the locks that stand for both.
func (d *Dir) Link(from, to string) error {
	return d.with(false, func(folder int) error {
		if err := unix.Linkat(folder, from, folder, to, 0); err != nil {
			fix := ""
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EMLINK) {
				fix = "give --run-dir a folder whose file system has hard links"
			}
			return hint.Wrap(fmt.Errorf("link %s to %s: %w", d.Path(to), d.Path(from), err), fix)
		}
		return nil
	})
}

// Held reports whether some process has the lock name, we ourselves included. What
// cannot be known counts as yes. Of one that was killed, the lock file is removed, and
// the files with it that it stands for.
func (d *Dir) Held(name string, files ...string) bool {
	l, err := d.take(name, 0)
	switch {
	case err == nil:
		for _, file := range files {
			_ = d.Remove(file) // one that stays is dialled in vain
		}
		l.Release()
		return false
	case errors.Is(err, os.ErrNotExist), errors.Is(err, errReplaced):
		return false
	}
	return true
}

// HostLock is the name of the lock of the daemon that serves the containers of a host.
func (d *Dir) HostLock() string { return d.name("host", "") + ".lock" }

// Hosts counts the daemons that have the HostLock of any network namespace.
func (d *Dir) Hosts() (int, error) { return d.count("host", ".lock") }

// Mark takes a lock that says, for as long as it is held, that this process drains.
func (d *Dir) Mark() (*Lock, error) {
	return d.Take(d.name("draining", strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(time.Now().UnixNano(), 36)) + ".lock")
}

// Marks counts the processes of our network namespace that hold a Mark.
func (d *Dir) Marks() (int, error) { return d.count(d.name("draining", ""), ".lock") }

func (d *Dir) count(prefix, end string) (held int, err error) {
	names, err := d.list(prefix, end)
	for _, name := range names {
		if d.Held(name) {
			held++
		}
	}
	return held, err
}
