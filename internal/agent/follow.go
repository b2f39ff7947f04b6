package agent

import (
	"context"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

// follower is what follow remembers from one snapshot to the next. It is its goroutine's
// alone.
type follower struct {
	keptFor *tuning                // for whose listeners the resolver keeps targets
	told    map[string]binding.Set // by container ID: of which the log has told
	left    map[string]toldLeft    // likewise: of those that are left behind
}

// follow turns each engine snapshot, and each configuration, into a table and acts on
// it, until watching ends, which descends from ctx.
func (a *agent) follow(ctx, watching context.Context, done chan<- struct{}) {
	defer close(done)
	var snapshot *dockerd.Snapshot
	for {
		t := a.tuned()
		complete := a.act(ctx, watching, t, snapshot)
		if watching.Err() != nil {
			return
		}
		if !complete { // the others have theirs; now for those that take long to read
			if newest := a.docker.Snapshot(); newest != nil {
				snapshot = newest
			}
			continue
		}
		var err error
		if snapshot != nil || a.docker == nil || len(a.modes) == 0 { // without modes it only puts names into the log
			a.followedOnce.Do(func() { close(a.followed) })
		}
		if snapshot, err = a.news(watching, t, snapshot); err != nil {
			return // watching has ended
		}
	}
}

// readPatience is how long the containers that are served wait for one another's
// declarations to be read: a usual container takes microseconds.
const readPatience = 50 * time.Millisecond

// act makes everything follow t and snapshot, which is nil before the first. It reports
// whether that is complete: of some containers the declarations may be read at its next
// call only. It may return early when watching ends; ctx is for what it starts.
func (a *agent) act(ctx, watching context.Context, t *tuning, snapshot *dockerd.Snapshot) (complete bool) {
	if snapshot == nil {
		a.shareAmong(nil)
		a.resolver.Keep(a.listenersTargets(t))
		return true
	}
	previous := a.table.load()
	table, complete := identity.Follow(watching, readPatience, snapshot, previous, a.self, t.layers, a.resolver.Parse)
	if watching.Err() != nil {
		return false
	}
	for _, m := range a.running {
		if as, ok := m.(*attachments); ok {
			as.hasten(table)
		}
	}
	a.logProblems(previous, table)
	if len(a.modes) == 0 {
		a.resolver.Keep(a.listenersTargets(t))
	} else if a.upstreams.keep(table) || a.follower.keptFor != t {
		a.follower.keptFor = t
		a.resolver.Keep(a.listenersTargets(t), a.upstreams.declared.byOwner()...) // before a connection can ask for one
	}
	a.table.store(table)
	a.shareAmong(table)
	for _, m := range a.running {
		m.update(ctx, table)
	}
	return complete
}

// listenersTargets are what t's listeners lead to.
func (a *agent) listenersTargets(t *tuning) []resolver.Target {
	var targets []resolver.Target
	for _, l := range t.cfg.Listeners {
		if target, err := a.resolver.Parse(l.Target); err == nil { // t was made of what parses
			targets = append(targets, target)
		}
	}
	return targets
}
