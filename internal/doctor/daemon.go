package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ambassadord/ambassadord/internal/abstract"
	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// daemonState is what was seen of the daemon of this host.
type daemonState struct {
	by        string   // the process, "" if none runs
	folderErr error    // why it could not have its lock and sockets
	squatters []string // what has names of older versions
	declaring int      // running containers that declare a port
}

func (h *host) daemon(ctx context.Context) Result {
	var s daemonState
	dir, err := rundir.Find(h.RunDir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the daemon makes it
	case err != nil:
		s.folderErr = err
	case dir.Held(dir.HostLock()):
		s.by = holderOf(dir)
	}
	if s.by == "" && abstract.Runs(ctx) {
		s.by = "of an older version, or with another --run-dir"
	}
	for _, squatter := range abstract.Squatters(ctx) {
		s.squatters = append(s.squatters, squatter.Error())
	}
	if s.by == "" && h.entersNamespaces() {
		if snapshot, err := h.snapshot(ctx); err == nil { // the check of the engine says why not
			s.declaring = expose(snapshot.Containers()).declaring
		}
	}
	return judgeDaemon(s)
}

// holderOf names the process that has the host's lock, as its control socket tells.
func holderOf(dir *rundir.Dir) string {
	conn, err := control.Dial(dir.Path(dir.Socket("")))
	if err != nil {
		return "with the lock in " + dir.String()
	}
	defer conn.Close()
	peer, err := conn.Peer()
	if err != nil {
		return "with the lock in " + dir.String()
	}
	defer peer.Close()
	return peer.String()
}

func judgeDaemon(s daemonState) Result {
	state := "none is running"
	if s.by != "" {
		state = "one is running: " + s.by
	}
	switch {
	case s.folderErr != nil:
		return broken(s.folderErr)
	case len(s.squatters) > 0:
		more := ""
		if n := len(s.squatters) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more like it)", n)
		}
		return warn("end that process; or, if it is an older ambassadord in a container, stop it before you start another",
			"%s; %s%s", state, s.squatters[0], more)
	case s.declaring > 0:
		return warn("start it: ambassadord run", "%s, and %d running containers declare ports that nobody serves", state, s.declaring)
	}
	return ok("%s", state)
}

// daemonRuns reports whether a daemon serves the host of any network namespace in sight.
func (h *host) daemonRuns(ctx context.Context) bool {
	dir, err := rundir.Find(h.RunDir)
	if err == nil {
		if n, err := dir.Hosts(); n > 0 || err != nil {
			return true
		}
	}
	return abstract.Runs(ctx)
}
