package control

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// lockOf is the name of the lock that stands for a socket.
func lockOf(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".lock" }

// Find returns the path of the control socket of this network namespace, where there is
// one; the host's daemon's comes first, and of one daemon's several the shortest.
func Find(folder string) (string, error) {
	const start = "start it, or run this in its network namespace and, where it runs in a container, there"
	dir, err := rundir.Find(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return "", hint.Wrap(ErrNobody, start)
	}
	if err != nil {
		return "", err
	}
	all, err := dir.Sockets()
	if err != nil {
		return "", fmt.Errorf("look for control sockets: %w", err)
	}
	var live []string
	for _, name := range all {
		if dir.Held(lockOf(name), name) {
			live = append(live, dir.Path(name))
		}
	}
	switch {
	case len(live) == 0:
		return "", hint.Wrap(ErrNobody, start)
	case len(live) > 1 && live[0] != dir.Path(dir.Socket("")):
		return "", hint.Errorf("say which with --control", "there are several control sockets: %s", strings.Join(live, ", "))
	}
	return live[0], nil
}
