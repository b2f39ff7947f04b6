package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/resolver"
)

// follower has everything follow the engine's snapshots and the settings. Its memory
// from one to the next is its goroutine's alone.
type follower struct {
	*parts
	modes    []mode.Mode
	keptFor  *settings.Settings // for whose listeners the resolver keeps targets
	problems *problemLog

	once     sync.Once
	followed chan struct{} // closed when the first table has been followed
}

func newFollower(p *parts) *follower {
	return &follower{parts: p, problems: newProblems(p.log), followed: make(chan struct{})}
}

// run turns each engine snapshot, and all settings, into a table and acts on
// it, until watching ends, which descends from ctx.
func (f *follower) run(ctx, watching context.Context, done chan<- struct{}) {
	defer close(done)
	var snapshot *dockerd.Snapshot
	for {
		s := f.settings.Load()
		complete := f.act(ctx, watching, s, snapshot)
		if watching.Err() != nil {
			return
		}
		if !complete { // the others have theirs; now for those that take long to read
			if newest := f.engine.Snapshot(); newest != nil {
				snapshot = newest
			}
			continue
		}
		var err error
		if snapshot != nil || f.engine == nil || len(f.parts.modes) == 0 { // without modes it only puts names into the log
			f.once.Do(func() { close(f.followed) })
		}
		if snapshot, err = f.next(watching, s, snapshot); err != nil {
			return // watching has ended
		}
	}
}

// next waits for a newer snapshot than last, or for s to be replaced, when last is
// the newest still.
func (f *follower) next(ctx context.Context, s *settings.Settings, last *dockerd.Snapshot) (*dockerd.Snapshot, error) {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer s.OnReplaced(stop)()
	if f.engine == nil {
		<-waiting.Done()
		return nil, ctx.Err()
	}
	next, err := f.engine.Wait(waiting, last)
	if err != nil && ctx.Err() == nil {
		return last, nil
	}
	return next, err
}

// readPatience is how long the containers that are served wait for one another's
// declarations to be read: a usual container takes microseconds.
const readPatience = 50 * time.Millisecond

// act makes everything follow s and snapshot, which is nil before the first. It reports
// whether that is complete: of some containers the declarations may be read at its next
// call only. It may return early when watching ends; ctx is for what it starts.
func (f *follower) act(ctx, watching context.Context, s *settings.Settings, snapshot *dockerd.Snapshot) (complete bool) {
	resolver := f.sources.Resolver
	if snapshot == nil {
		f.routes.ShareAmong(nil)
		resolver.Keep(listenersTargets(s, resolver.Parse))
		return true
	}
	previous := f.clients.Load()
	table, complete := identity.Follow(watching, readPatience, snapshot, previous, f.self, s.Layers, resolver.Parse)
	if watching.Err() != nil {
		return false
	}
	for _, m := range f.modes {
		if early, ok := m.(mode.Early); ok {
			early.Hasten(table)
		}
	}
	if len(f.parts.modes) == 0 {
		resolver.Keep(listenersTargets(s, resolver.Parse))
	} else {
		f.problems.tell(previous, table)
		if f.routes.Follow(table) || f.keptFor != s {
			f.keptFor = s
			resolver.Keep(listenersTargets(s, resolver.Parse), f.routes.Declared()...) // before a connection can ask for one
		}
	}
	f.clients.Store(table)
	f.routes.ShareAmong(table)
	for _, m := range f.modes {
		m.Update(ctx, table)
	}
	return complete
}

// listenersTargets are what the listeners of s lead to.
func listenersTargets(s *settings.Settings, parse func(string) (resolver.Target, error)) []resolver.Target {
	var targets []resolver.Target
	for _, l := range s.Config.Listeners {
		if target, err := parse(l.Target); err == nil { // s was made of what parses
			targets = append(targets, target)
		}
	}
	return targets
}
