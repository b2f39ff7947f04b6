package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// socketMode lets our user and the group dial (unix(7): connect(2) asks for the right to write).
	socketMode = 0o660
	// lookPatience bounds how long we try whether another process serves a socket.
	lookPatience = time.Second
)

// placed is our Unix socket at its path.
type placed struct {
	listener *net.UnixListener
	path     string
	file     os.FileInfo // whose device and inode tell it from another's at the same path
}

// place listens at path. The socket is made beside it, with its mode and group, and gets its name
// last: so it is never there half made, and replaces that of a predecessor at once. What a killed
// process has left there is replaced, too. A socket that another process serves, a link, and what is
// no socket stay as they are.
func place(path, group string, predecessor func(pid int) bool) (*placed, error) {
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	beside := fmt.Sprintf("%s.%d", path, os.Getpid())
	if most := len(unix.RawSockaddrUnix{}.Path) - 1; len(beside) > most {
		return nil, hint.Errorf("give a shorter --admin", "the path is longer than a socket's may be, %d bytes", most-len(beside)+len(path))
	}
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	replace, err := replaceable(path, predecessor)
	if err != nil {
		return nil, err
	}
	if st, err := os.Lstat(beside); err == nil && st.Mode().Type() == fs.ModeSocket {
		_ = os.Remove(beside) // of a process of our ID that was killed; if it stays, the next step says so
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: beside, Net: "unix"})
	if err != nil {
		return nil, hint.Wrap(err, makeHint(err))
	}
	listener.SetUnlinkOnClose(false) // by then the name may be another's
	p := &placed{listener: listener, path: path}
	if err := p.name(beside, gid, replace); err != nil {
		listener.Close()
		_ = os.Remove(beside)
		return nil, err
	}
	return p, nil
}

// name gives the socket, which is at beside, its group, mode and path.
func (p *placed) name(beside string, gid int, replace bool) error {
	if gid >= 0 {
		if err := os.Lchown(beside, -1, gid); err != nil {
			return hint.Wrap(fmt.Errorf("give the socket to group %d: %w", gid, err), "give --admin-group a group that this user is in, or run as root")
		}
	}
	if err := os.Chmod(beside, socketMode); err != nil {
		return err
	}
	var err error
	if p.file, err = os.Lstat(beside); err != nil {
		return err
	}
	if replace {
		return os.Rename(beside, p.path)
	}
	if err := os.Link(beside, p.path); err != nil { // and not rename(2): it would replace what has come there since we looked
		return hint.Wrap(err, makeHint(err))
	}
	return os.Remove(beside)
}

// remove takes the socket away, unless another has taken its place.
func (p *placed) remove() {
	if st, err := os.Lstat(p.path); err == nil && os.SameFile(st, p.file) {
		_ = os.Remove(p.path) // a dead socket at most, which the next daemon replaces
	}
}

// replaceable reports whether there is a socket at path that we may replace; the error says why
// what is there has to stay.
func replaceable(path string, predecessor func(pid int) bool) (bool, error) {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case st.Mode()&fs.ModeSymlink != 0:
		return false, hint.Errorf("give --admin the path that it leads to, or remove it", "%s is a link, which could lead elsewhere in a moment", path)
	case st.Mode().Type() != fs.ModeSocket:
		return false, hint.Errorf("remove it, or give another --admin", "%s is there already, and is no socket", path)
	}
	pid, err := servedBy(path)
	switch {
	case errors.Is(err, unix.ECONNREFUSED): // nobody serves it
		return true, nil
	case errors.Is(err, fs.ErrNotExist): // its process has just removed it
		return false, nil
	case err != nil:
		return false, hint.Wrap(fmt.Errorf("who serves %s: %w", path, err), "remove it if no daemon has it, or give another --admin")
	case predecessor != nil && predecessor(pid):
		return true, nil
	}
	return false, hint.Errorf("give each daemon an --admin of its own, or none: --admin=", "process %d serves %s", pid, path)
}

// servedBy is the process that serves the socket at path (SO_PEERCRED, unix(7)), 0 if that is out of our
// sight. The error is ECONNREFUSED where no process does.
func servedBy(path string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// checkFolder makes the folder of the socket where there is none, and refuses one in which others could
// put a socket of theirs in the place of ours.
func checkFolder(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return hint.Wrap(err, makeHint(err))
	}
	var st unix.Stat_t
	if err := unix.Stat(folder, &st); err != nil {
		return &os.PathError{Op: "stat", Path: folder, Err: err}
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return hint.Errorf("give --admin a path in a folder of root's, or of your own", "%s belongs to user %d, who could replace the socket", folder, st.Uid)
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return hint.Errorf("run: chmod go-w "+folder+"; or give another --admin", "%s may be changed by others than its owner (mode %04o)", folder, st.Mode&0o7777)
	}
	return nil
}

// groupID is the number of a group by its name or number, -1 for "".
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	text := group
	if g, err := user.LookupGroup(group); err == nil {
		text = g.Gid
	}
	gid, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, hint.Errorf("give the name or the number of a group of this system: getent group", "--admin-group: there is no group %q", group)
	}
	return int(gid), nil
}

// makeHint says what to do about a socket that cannot be made.
func makeHint(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "its file system is read-only: give --admin a path that can be written, or none: --admin="
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "run as root, or give --admin a path in a folder of your own"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "its file system is full: make room there, or give another --admin"
	case errors.Is(err, unix.EEXIST), errors.Is(err, unix.EADDRINUSE):
		return "another daemon is just starting: give each an --admin of its own"
	}
	return ""
}
