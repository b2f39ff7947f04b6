package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// mode is what a new file has: its owner writes, and a group may read.
const mode = 0o640

// mostLinks is how many symbolic links a path may lead by, as for the kernel (path_resolution(7)).
const mostLinks = 40

// openPath opens an absolute path to append to it, and makes the file if it is not there. It goes the way by itself,
// from folder to folder: a symbolic link is followed where only root or the daemon's user could have made it, so that
// /var/log may be one and none of /tmp leads anywhere.
func openPath(path string) (*os.File, error) {
	w, err := newWalk(path)
	if err != nil {
		return nil, err
	}
	defer w.close()
	for {
		file, err := w.forward()
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		if file != nil {
			return file, nil
		}
	}
}

// walk is a way through folders, as far as it has come.
type walk struct {
	path  string
	dir   int      // the folder that it is in
	rest  []string // what is left of the way
	links int
}

func newWalk(path string) (*walk, error) {
	w := &walk{path: path, dir: -1, rest: names(path)}
	if err := w.enter(unix.AT_FDCWD, "/"); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *walk) close() { _ = unix.Close(w.dir) }

// enter goes into a folder, which is no link.
func (w *walk) enter(from int, name string) error {
	dir, err := unix.Openat(from, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if w.dir >= 0 {
		_ = unix.Close(w.dir)
	}
	w.dir = dir
	return nil
}

// forward goes on by one name, or by a link, and opens the last name.
func (w *walk) forward() (*os.File, error) {
	switch {
	case len(w.rest) == 0:
		return nil, unix.EISDIR
	case len(w.rest) == 1 && w.descriptor():
		return w.open(0)
	}
	name := w.rest[0]
	linked, err := w.follow(name)
	switch {
	case err != nil || linked:
		return nil, err
	case len(w.rest) == 1:
		return w.open(unix.O_NOFOLLOW)
	}
	w.rest = w.rest[1:]
	return nil, w.enter(w.dir, name)
}

// follow puts what a link says in its place, and says whether name is one.
func (w *walk) follow(name string) (bool, error) {
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(w.dir, name, text)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return false, nil // no link
	}
	if err != nil {
		return false, err
	}
	if w.links++; w.links > mostLinks {
		return false, unix.ELOOP
	}
	switch open, err := w.openToOthers(); {
	case err != nil:
		return false, err
	case open:
		return false, hint.Errorf("give the path that it leads to, or put the log into a folder that only root writes",
			"%q is a symbolic link in a folder that others may write", name)
	}
	to := string(text[:n])
	if strings.HasPrefix(to, "/") {
		if err := w.enter(unix.AT_FDCWD, "/"); err != nil {
			return false, err
		}
	}
	w.rest = append(names(to), w.rest[1:]...)
	return true, nil
}

// descriptor says whether the folder is one of procfs, whose links are descriptors (/dev/stdout leads there): their
// text is no path, and only the kernel can follow them.
func (w *walk) descriptor() bool {
	var s unix.Statfs_t
	return unix.Fstatfs(w.dir, &s) == nil && s.Type == unix.PROC_SUPER_MAGIC
}

func (w *walk) open(flags int) (*os.File, error) {
	// O_NONBLOCK: a pipe without a reader is an error, rather than waited for.
	flags |= unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Openat(w.dir, w.rest[0], flags, mode)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), w.path)
	if err := w.acceptable(fd); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// acceptable refuses what was put into the daemon's way.
func (w *walk) acceptable(fd int) error {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return err
	}
	if kind := s.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFIFO && kind != unix.S_IFCHR {
		return errors.New("it is neither a file nor a pipe")
	}
	open, err := w.openToOthers()
	if err != nil || !open {
		return err
	}
	if !trusted(s.Uid) || s.Nlink != 1 {
		return hint.Errorf("put the log into a folder that only root writes", "it is not the daemon's own, in a folder that others may write")
	}
	return nil
}

// openToOthers says whether others than root and the daemon's user can change the folder.
func (w *walk) openToOthers() (bool, error) {
	var s unix.Stat_t
	if err := unix.Fstat(w.dir, &s); err != nil {
		return false, fmt.Errorf("its folder: %w", err)
	}
	return s.Mode&0o022 != 0 || !trusted(s.Uid), nil
}

func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// names are those of a path.
func names(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}
