// Package rundir is the folder under /run in which a daemon keeps what tells other
// processes of it: lock files, and the sockets at which it is spoken to.
//
// Names of abstract sockets (unix(7)) can be taken, and dialled, by anybody in the network
// namespace: any local user, any container on the host's network. A folder that only one
// user can enter has no such way in. So it is made 0700, and checked each time before it is
// used: every folder on the way to it belongs to root or to us and can be changed by
// nobody else, none is a link, and it is ours alone.
//
// A daemon serves a network namespace, and daemons of several may share one /run (ip
// netns exec does not change it). So every name in the folder has the namespace's device
// and inode in it.
//
//	Open ─ Dir ─┬ Lock     a file under flock(2): one process has it, dead ones have none
//	            └ Path     where a socket goes, under a lock of the same name
package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// usual is where root's folder is. It stands as it is in the program's file, for a copy to
// be given another by changing that.
const usual = "/run/ambassadord"

// Default is where the folder is when nothing else is said: /run/ambassadord, and for
// a user that is not root in XDG_RUNTIME_DIR, which is that user's alone.
func Default() string {
	if own := os.Getenv("XDG_RUNTIME_DIR"); os.Geteuid() != 0 && filepath.IsAbs(own) {
		return filepath.Join(own, filepath.Base(usual))
	}
	return usual
}

// Dir is the folder, as seen by a process in one network namespace.
type Dir struct {
	path string
	ns   netns.ID
}

// Open makes the folder at path where there is none, and checks it; "" is Default. The
// error says what is wrong with it and what to do.
func Open(path string) (*Dir, error) { return open(path, true) }

// Find is Open for who only looks: it makes nothing. Without a folder the error is
// fs.ErrNotExist.
func Find(path string) (*Dir, error) { return open(path, false) }

func open(path string, create bool) (*Dir, error) {
	if path == "" {
		path = Default()
	}
	ns, err := netns.Current()
	if err != nil {
		return nil, fmt.Errorf("the folder %s: %w", path, err)
	}
	defer ns.Close()
	d := &Dir{path: filepath.Clean(path), ns: ns.ID()}
	if err := d.with(create, func(int) error { return nil }); err != nil {
		return nil, err
	}
	return d, nil
}

// String is the folder's path.
func (d *Dir) String() string { return d.path }

// name is the name of something of our network namespace.
func (d *Dir) name(kind, detail string) string {
	name := fmt.Sprintf("%s-%d-%d", kind, d.ns.Dev, d.ns.Inode)
	if detail != "" {
		name += "-" + strings.ReplaceAll(detail, "/", "_")
	}
	return name
}

// Path is where the file name is.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Socket is the name of a control socket of our network namespace: the host's daemon's,
// or with an address, HOST:PORT, that of a daemon which listens there.
func (d *Dir) Socket(address string) string { return d.name("control", address) + ".sock" }

// Address is that of which Socket has made a name, "" for the host's.
func (d *Dir) Address(socket string) string {
	middle, _ := cutName(socket, d.name("control", ""), ".sock")
	return strings.TrimPrefix(middle, "-")
}

// Sockets are the names of all control sockets of our network namespace, whoever may be
// behind them, that of the host's daemon first.
func (d *Dir) Sockets() ([]string, error) {
	return d.list(d.name("control", ""), ".sock")
}

// list returns the names that are prefix, or begin with it and a dash, and end so.
func (d *Dir) list(prefix, end string) ([]string, error) {
	var names []string
	err := d.with(false, func(int) error {
		entries, err := os.ReadDir(d.path)
		for _, e := range entries {
			if middle, ok := cutName(e.Name(), prefix, end); ok && (middle == "" || middle[0] == '-') {
				names = append(names, e.Name())
			}
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	slices.SortFunc(names, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return names, err
}

func cutName(name, prefix, end string) (middle string, ok bool) {
	name, ok = strings.CutPrefix(name, prefix)
	middle, fits := strings.CutSuffix(name, end)
	return middle, ok && fits
}

// with calls do with a descriptor of the folder (O_PATH), having checked the way there.
func (d *Dir) with(create bool, do func(fd int) error) error {
	if !filepath.IsAbs(d.path) || d.path == "/" {
		return hint.Errorf("give --run-dir the whole path of a folder", "%q cannot be the folder of sockets and locks", d.path)
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	at := "/"
	if err := checkParent(fd, at); err != nil {
		return err
	}
	names := strings.Split(strings.TrimPrefix(d.path, "/"), "/")
	for i, name := range names {
		at = filepath.Join(at, name)
		last := i == len(names)-1
		next, err := enter(fd, name, at, create, last)
		if err != nil {
			return err
		}
		_ = unix.Close(fd)
		if fd = next; last {
			err = checkOwn(fd, at)
		} else {
			err = checkParent(fd, at)
		}
		if err != nil {
			return err
		}
	}
	return do(fd)
}

// enter opens the folder name, which is at path, in the folder in; it makes it if it may.
func enter(in int, name, path string, create, last bool) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC // of a link: the link itself
	fd, err := unix.Openat(in, name, flags, 0)
	if errors.Is(err, unix.ENOENT) && create {
		mode := uint32(0o755)
		if last {
			mode = 0o700
		}
		if err := unix.Mkdirat(in, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, unmakeable(path, err)
		}
		fd, err = unix.Openat(in, name, flags, 0)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// unmakeable says why a folder or a file at path cannot be made, and what to do.
func unmakeable(path string, err error) error {
	fix := ""
	switch {
	case errors.Is(err, unix.EROFS):
		fix = "its file system is read-only: in a container add --tmpfs /run; elsewhere give --run-dir a folder that can be written"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		fix = "its file system is full: make room there, or give another --run-dir"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		fix = "run as root, or give --run-dir a folder of your own, such as one in $XDG_RUNTIME_DIR"
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR):
		fix = "it is no plain file, and none of ours: remove it"
	}
	return hint.Wrap(fmt.Errorf("make %s: %w", path, err), fix)
}

// checkParent refuses a folder on the way in which somebody else could put another in
// the place of ours: it has to be root's or ours, and to be changed by nobody else,
// unless it is sticky, as /tmp is, where everybody's own stays their own.
func checkParent(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := mustBeFolder(st, path); err != nil {
		return err
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return hint.Errorf("give --run-dir a folder whose parents are root's", "%s belongs to user %d, who could replace what is in it", path, st.Uid)
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return hint.Errorf("run: chmod go-w "+path+"; or give another --run-dir", "%s may be changed by others than its owner (mode %04o)", path, st.Mode&0o7777)
	}
	return nil
}

// checkOwn refuses a folder that is not ours alone.
func checkOwn(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := mustBeFolder(st, path); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() {
		fix := "give --run-dir a folder of your own, such as one in $XDG_RUNTIME_DIR, or run as that user"
		if os.Geteuid() == 0 { // nobody else's is to be at our place
			fix = "remove it, or give another --run-dir"
		}
		return hint.Errorf(fix, "%s belongs to user %d, and we are user %d", path, st.Uid, os.Geteuid())
	}
	if st.Mode&0o077 != 0 {
		return hint.Errorf("look who has been in it, then run: chmod 700 "+path, "%s is open to other users (mode %04o)", path, st.Mode&0o7777)
	}
	return nil
}

func mustBeFolder(st unix.Stat_t, path string) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return nil
	case unix.S_IFLNK:
		to, err := filepath.EvalSymlinks(path)
		if err != nil {
			to = "the folder itself"
		}
		return hint.Errorf("give --run-dir the path that it leads to ("+to+"), or remove it", "%s is a link, which could lead elsewhere in a moment", path)
	}
	return hint.Errorf("remove it, or give another --run-dir", "%s is not a folder", path)
}
