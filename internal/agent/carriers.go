package agent

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

// findCarriers reads who says so in dir, which may be nil. What is there besides is logged.
func findCarriers(dir *rundir.Dir, log *slog.Logger) (claim.Carriers, error) {
	all, others, err := claim.Find(dir)
	for _, other := range others {
		log.Warn("a file among those of processes that carry connections", "error", other, hint.Attr(other))
	}
	return all, err
}

// withDraining adds the daemons that have handed over: which rules they need they do not say.
func withDraining(all claim.Carriers, dir *rundir.Dir) claim.Carriers {
	if handover.OthersDrain(dir) {
		all = append(all, claim.Carrier{Who: "a daemon that has handed over", Everything: true})
	}
	return all
}

// staying are the rules that a daemon which stops has left for what others carry. The zero
// value has left none, and has not looked yet who carries.
type staying struct {
	mu    sync.Mutex
	known bool
	err   error
	all   claim.Carriers
	left  map[netns.ID]claim.Carried
}

// mustStay reports whether the rules in ns, nil being our own, have to stay for what others
// carry, and notes it. Who carries is looked for once: removeUnneeded looks again in the end.
// What cannot be known counts as yes.
func (a *agent) mustStay(ns *netns.Namespace) bool {
	s := &a.staying
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		s.known = true
		s.all, s.err = findCarriers(a.dir, a.log)
		if s.err != nil {
			a.log.Error("cannot see whether others carry connections; the rules stay, unhooked", "error", s.err, "hint", "run: ambassadord rules remove")
		}
	}
	id, err := idOf(ns)
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

// note says that the rules in a namespace were left for what others carry.
func (s *staying) note(id netns.ID, others claim.Carried) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(id, others)
}

// keep is note, under the lock.
func (s *staying) keep(id netns.ID, others claim.Carried) {
	if s.left == nil {
		s.left = map[netns.ID]claim.Carried{}
	}
	s.left[id] = others
}

// say tells for whom rules have been left, and who removes them.
func (s *staying) say(log *slog.Logger) {
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
	log.Warn("rules stay, unhooked, for connections that another process carries; they go with the last of these, or by the next ambassadord rules remove after that",
		"connections", all.Connections, "namespaces", len(s.left), "by", strings.Join(all.By, ", "))
}

// removeUnneeded removes what mustStay has left and nobody needs any more. It is called when
// others may have the host's lock again: who ends to carry while somebody has that leaves the
// rules to him.
func (a *agent) removeUnneeded() {
	a.staying.mu.Lock()
	left := slices.Collect(maps.Keys(a.staying.left))
	a.staying.mu.Unlock()
	if a.dir == nil || len(left) == 0 {
		return
	}
	if err := removeUnneeded(context.Background(), a.dir, left, a.log); err != nil { // each step bounds itself
		a.log.Error("cannot remove the rules that were left for connections of others", "error", err, "hint", "run: ambassadord rules remove")
	}
}

func idOf(ns *netns.Namespace) (netns.ID, error) {
	if ns != nil {
		return ns.ID(), nil
	}
	own, err := netns.Current()
	if err != nil {
		return netns.ID{}, err
	}
	defer own.Close()
	return own.ID(), nil
}
