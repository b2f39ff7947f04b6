package control

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// lockOf is the name of the lock that stands for a socket.
func lockOf(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".lock" }

// Find returns the path of the control socket of this network namespace, where there is
// one; the host's daemon's comes first, and of the several names of one the shortest.
func Find(folder string) (string, error) {
	const start = "start it, or run this in its network namespace and, where it runs in a container, there"
	dir, err := rundir.Find(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return "", hint.Wrap(ErrNobody, start)
	}
	if err != nil {
		return "", err
	}
	live, err := Live(dir)
	if err != nil {
		return "", err
	}
	live = oncePerSocket(dir, live)
	switch {
	case len(live) == 0:
		return "", hint.Wrap(ErrNobody, start)
	case len(live) > 1 && live[0] != dir.Path(dir.Socket("")):
		return "", hint.Errorf("say which with --control", "there are several control sockets: %s", strings.Join(live, ", "))
	}
	return live[0], nil
}

// oncePerSocket are the paths of names, of each socket's several the first.
func oncePerSocket(dir *rundir.Dir, names []string) (paths []string) {
	seen := map[inode]bool{}
	for _, name := range names {
		path := dir.Path(name)
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			at := inode{st.Dev, st.Ino}
			if seen[at] {
				continue
			}
			seen[at] = true
		}
		paths = append(paths, path)
	}
	return paths
}

// inode tells one file from another.
type inode struct{ device, number uint64 }

// Live are the names of the control sockets in dir, of our network namespace, that a daemon
// has; that of the host's daemon is the first.
func Live(dir *rundir.Dir) ([]string, error) {
	all, err := dir.Sockets()
	if err != nil {
		return nil, fmt.Errorf("look for control sockets: %w", err)
	}
	return slices.DeleteFunc(all, func(name string) bool { return !Held(dir, name) }), nil
}

// Held reports whether a daemon has the control socket name of dir.
func Held(dir *rundir.Dir, name string) bool { return dir.Held(lockOf(name), name) }

// Holder names the process that listens at the control socket name of dir. It reports
// whether that is in our sight.
func Holder(dir *rundir.Dir, name string) (who string, seen bool) {
	conn, err := Dial(dir.Path(name))
	if err != nil {
		return "one with the lock in " + dir.String(), true
	}
	defer conn.Close()
	peer, err := conn.Peer()
	if err != nil {
		return "one with the lock in " + dir.String(), true
	}
	defer peer.Close()
	if peer.PID == 0 {
		return peer.String() + ", which shares " + dir.String() + " with us", false
	}
	return peer.String(), true
}
