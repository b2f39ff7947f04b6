package cleanup

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// FindCarriers returns the processes that say in dir, which may be nil, that they carry connections
// of a daemon. Files there that are no such claims are logged.
func FindCarriers(dir *rundir.Dir, log *slog.Logger) (claim.Carriers, error) {
	all, others, err := claim.Find(dir)
	for _, other := range others {
		log.Warn("a file among those of processes that carry connections", "error", other, hint.Attr(other))
	}
	return all, err
}

// withDraining adds the daemons that have handed over, which do not say which rules they need.
func withDraining(all claim.Carriers, dir *rundir.Dir) claim.Carriers {
	if handover.OthersDrain(dir) {
		all = append(all, claim.Carrier{Who: "a daemon that has handed over", Everything: true})
	}
	return all
}

// Staying are the rules that a daemon which stops leaves for connections that other processes
// carry. The zero value has left none, and has not yet looked for such processes.
type Staying struct {
	Dir *rundir.Dir // where the processes say that they carry connections; nil where there is no folder
	Log *slog.Logger

	mu    sync.Mutex
	known bool
	err   error
	all   claim.Carriers
	left  map[netns.ID]claim.Carried
}

// MustStay reports whether the rules in ns, nil being our own, have to stay for connections that
// others carry, and notes it. The carriers are looked for once: RemoveUnneeded looks again in the
// end. What cannot be known counts as yes.
func (s *Staying) MustStay(ns *netns.Namespace) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		s.known = true
		s.all, s.err = FindCarriers(s.Dir, s.Log)
		if s.err != nil {
			s.Log.Error("cannot see whether others carry connections; the rules stay, unhooked", "error", s.err, "hint", "run: ambassadord rules remove")
		}
	}
	id, err := netns.IDOrOwn(ns)
	if s.err != nil || err != nil {
		return true
	}
	others := s.all.In(id)
	if others.None() {
		return false
	}
	s.keep(id, others)
	return true
}

// Note says that the rules in a namespace were left for connections that others carry.
func (s *Staying) Note(id netns.ID, others claim.Carried) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(id, others)
}

// keep is Note, under the lock.
func (s *Staying) keep(id netns.ID, others claim.Carried) {
	if s.left == nil {
		s.left = map[netns.ID]claim.Carried{}
	}
	s.left[id] = others
}

// Say tells the log which processes rules have been left for, and what removes these.
func (s *Staying) Say() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.left) == 0 {
		return
	}
	var all claim.Carried
	for _, c := range s.left {
		all.Add(c)
	}
	slices.Sort(all.By)
	s.Log.Warn("rules stay, unhooked, for connections that another process carries; they go with the last of these, or by the next ambassadord rules remove after that",
		"connections", all.Connections, "namespaces", len(s.left), "by", strings.Join(all.By, ", "))
}

// RemoveUnneeded removes the rules that were left and no process needs any more. It is called when
// others may have the host's lock again: a carrier that ends while another process has the lock
// leaves the rules to that process.
func (s *Staying) RemoveUnneeded() {
	s.mu.Lock()
	left := slices.Collect(maps.Keys(s.left))
	s.mu.Unlock()
	if s.Dir == nil || len(left) == 0 {
		return
	}
	if err := removeUnneeded(context.Background(), s.Dir, left, s.Log); err != nil { // each step bounds itself
		s.Log.Error("cannot remove the rules that were left for connections of others", "error", err, "hint", "run: ambassadord rules remove")
	}
}
