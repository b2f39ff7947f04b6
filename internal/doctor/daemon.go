package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/ambassadord/ambassadord/internal/abstract"
	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// daemonState is what was seen of the daemons of this host.
type daemonState struct {
	by        string   // the process that serves the host's containers, "" if none does
	listeners []string // others, that serve where they listen: "process 7 (ambassadord) at ADDRESS"
	folderErr error    // why it could not have its lock and sockets
	squatters []string // what has names of older versions
	unseen    string   // what has the name of their lock, out of our sight
	declaring int      // running containers that declare a port
}

func checkDaemon(ctx context.Context, h *environment) Result {
	var s daemonState
	seen := true
	dir, err := rundir.Find(h.RunDir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the daemon makes it
	case err != nil:
		s.folderErr = err
	default:
		if dir.Held(dir.HostLock()) {
			s.by, seen = control.Holder(dir, dir.Socket(""))
		}
		s.listeners = listenersOf(dir, s.by)
	}
	if s.by == "" && abstract.Runs(ctx) {
		s.by = "of an older version, or with another --run-dir"
	}
	for _, squatter := range abstract.Squatters(ctx) {
		switch {
		case !squatter.Unseen:
			s.squatters = append(s.squatters, squatter.Error())
		case seen: // else it is that daemon itself
			s.unseen = squatter.Error()
		}
	}
	if s.by == "" && h.entersNamespaces() {
		if snapshot, err := h.snapshot(ctx); err == nil { // the check of the engine says why not
			s.declaring = expose(snapshot.Containers()).declaring
		}
	}
	return judgeDaemon(s)
}

// listenersOf are the daemons with a control socket in dir but the host's: those with
// nothing but listeners, or in mode link.
func listenersOf(dir *rundir.Dir, host string) []string {
	live, err := control.Live(dir)
	if err != nil {
		return nil // what is wrong with the folder has been seen
	}
	at := map[string][]string{}
	var order []string
	for _, name := range live {
		address := dir.Address(name)
		if address == "" {
			continue
		}
		who, _ := control.Holder(dir, name)
		if who == host {
			continue
		}
		if at[who] == nil {
			order = append(order, who)
		}
		at[who] = append(at[who], address)
	}
	for i, who := range order {
		order[i] = who + " at " + strings.Join(at[who], ", ")
	}
	return order
}

func judgeDaemon(s daemonState) Result {
	state := "none is running"
	switch {
	case s.by != "":
		state = "one is running: " + s.by
	case len(s.listeners) > 0:
		state = "none is running that redirects what containers dial"
	}
	if len(s.listeners) > 0 {
		state += "; for those who dial its own address there is " + strings.Join(s.listeners, ", and ")
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
	case s.unseen != "" && s.by != "":
		return warn("see who it is: run this on the host, or in a container with --pid host; if it is a daemon, stop one of the two", "%s; %s", state, s.unseen)
	case s.unseen != "":
		return warn("run this on the host, or in a container with --pid host: it then names the process; if that is a daemon, start no second one",
			"whether one is running cannot be told from here: %s", s.unseen)
	case s.declaring > 0:
		return warn("start it: ambassadord run", "%s, and %s ports that nobody serves", state, shorten.Count(s.declaring, "running container declares", "running containers declare"))
	case s.by == "" && len(s.listeners) == 0:
		return warn("start it: ambassadord run", "%s, so that nothing is served", state)
	}
	return ok("%s", state)
}

// daemonRuns reports whether a daemon serves the host of any network namespace in sight.
func (h *environment) daemonRuns(ctx context.Context) bool {
	dir, err := rundir.Find(h.RunDir)
	if err == nil {
		if n, err := dir.Hosts(); n > 0 || err != nil {
			return true
		}
	}
	return abstract.Runs(ctx)
}
