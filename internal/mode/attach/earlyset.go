package attach

import (
	"context"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/netrules"
)

// earlySet serves new network namespaces before it is known whose they are, so
// that a container's first instruction may dial. The engine tells of a container
// only once it runs; until then the declarations of all that may be starting are
// served, and what else was caught with them is let through to where it was meant
// to go.
type earlySet struct {
	*Config
	slots      *ruleslots.Slots // beside those of attachments
	folders    []string         // where namespaces appear: the first that exists
	stop       func()           // ends the watch on folders, and the process; nil before start
	beginWatch func()           // begins it; nil once it has
	watching   sync.WaitGroup
	running    sync.WaitGroup // every early namespace

	mu        sync.Mutex
	there     map[string]*earlyNamespace // by the namespace's name, until it is claimed or let go of
	owners    map[string]*attachment     // by the namespace's name: what serves it
	followed  *identity.Table            // by which claim and decline were called last
	idle      map[string]time.Time       // by path: others that have appeared, and when
	unclaimed []*earlyNamespace          // those in whose namespace no container declares anything, the oldest first
	most      int                        // of these
	overfull  bool                       // they were too many, and the log says so
	behind    []*earlyNamespace          // those that were left to another daemon
	departed  bool                       // another daemon goes on
	process   preparerState

	begin sync.Once
	began chan struct{} // closed by begun
}

func newEarlySet(c *Config) *earlySet {
	return &earlySet{Config: c, folders: sandbox.Folders(), slots: newSlots(c, 8), there: map[string]*earlyNamespace{},
		most: maxUnclaimed, owners: map[string]*attachment{}, idle: map[string]time.Time{}, process: newPreparerState(), began: make(chan struct{})}
}

// start starts the process that prepares namespaces, until ctx ends. That takes as long as the
// engine's first list, so the two are done beside each other; it watches from watch on.
func (s *earlySet) start(ctx context.Context) {
	// Its end is that of the watch alone: what is served already stays so.
	watching, stop := context.WithCancel(ctx)
	s.stop = stop
	folders := s.folders
	s.watching.Go(func() {
		defer s.begun()
		s.prepareAhead(ctx, watching, folders)
	})
	s.beginWatch = func() {
		s.watching.Go(func() {
			err := sandbox.Watch(watching, folders, func(path string) { s.seen(ctx, path) })
			if err != nil {
				s.Log.Warn("cannot watch the engine's network namespaces; a container that dials at once may be too early",
					"error", err, hint.Attr(err))
			}
		})
		s.watching.Go(func() {
			if s.Turn.Await(watching, nil) {
				s.resume(ctx)
			}
		})
	}
}

// watch watches until ctx ends, where table shows the engine to mount namespaces. It begins
// also while another daemon owns the rules, so that one of the two watches at every moment: until that
// has let go, we prepare what it has not.
// There must be a table: without one it cannot be said which container is new.
func (s *earlySet) watch(ctx context.Context, table *identity.Table) {
	if s.stop == nil {
		s.start(ctx)
	}
	if s.beginWatch == nil {
		folder := table.SandboxFolder()
		if folder == "" || slices.Contains(s.folders, folder) {
			return
		}
		// Only now has a container shown that it is elsewhere.
		s.stop()
		s.folders = []string{folder}
		s.start(ctx)
	}
	s.beginWatch()
	s.beginWatch = nil
	s.mu.Lock()
	s.process.mayWatch = true
	s.declare(table)
	s.mu.Unlock()
}

// appeared serves the namespace at where, in which made was prepared; nil is nothing. It may be
// told of one more than once, and before or after the engine's word of whose it is. While
// no container that declares anything may be in it, and nothing is prepared, it is kept in mind.
func (s *earlySet) appeared(ctx context.Context, where string, made *preparer.Made) {
	if e := s.receive(ctx, where, made); e != nil && made != nil {
		hurry([]*earlyNamespace{e}) // it may be too late when runEarly comes to it
	}
}

// receive is appeared but for what is to be redirected by now, which may have changed since made
// was. It returns what serves the namespace from now on, nil if nothing does, or did before.
func (s *earlySet) receive(ctx context.Context, where string, made *preparer.Made) *earlyNamespace {
	name := path.Base(where)
	s.mu.Lock()
	defer s.mu.Unlock()
	// Under the lock: a container that is not in this table yet will be in one that claim or
	// decline are called for, after this.
	table := s.Clients.Load()
	n, known := table.Sandbox(name)
	switch at, e := s.owners[name], s.there[name]; {
	case s.departed:
		s.discard(made)
		return nil
	case at != nil || e != nil:
		if made != nil && (e == nil || !e.offer(made)) && (at == nil || !at.offer(made)) {
			s.discard(made)
		}
		return nil
	case known && made == nil:
		return nil // its attachment does without
	case !known && s.Engine != nil:
		s.Engine.CatchUp() // its declarations may be on their way to us
	}
	var ports []netrules.Port
	if !known {
		ports = startersPorts(table.Starters(sandbox.Mounted))
	}
	if made == nil && (len(ports) == 0 || !s.Turn.Ours()) {
		s.idle[where] = time.Now()
		return nil
	}
	delete(s.idle, where)
	e := s.serve(ctx, where, ports, made)
	switch {
	case known && table == s.followed:
		e.life.decide(verdict{client: route.ClientOf(n.Clients[0])}) // else the owner would have claimed it
	case len(ports) == 0:
		s.bound(e)
	}
	return e
}

// discard undoes made, not under s.mu: the kernel has us wait for the process that is changing
// rules in that namespace, which may be the container's.
func (s *earlySet) discard(made *preparer.Made) { go made.Close() }

// maxUnclaimed is how many namespaces we keep prepared in which no container declares anything, for
// those that the engine may tell of.
const maxUnclaimed = 256

// bound lets go of the oldest of those that are kept without a declaration, if there are too many with
// e. s.mu is held.
func (s *earlySet) bound(e *earlyNamespace) {
	s.unclaimed = slices.DeleteFunc(s.unclaimed, func(e *earlyNamespace) bool { return !e.vain() })
	s.unclaimed = append(s.unclaimed, e)
	if len(s.unclaimed) <= s.most {
		return
	}
	s.unclaimed[0].life.decide(verdict{})
	s.unclaimed = s.unclaimed[1:]
	if !s.overfull {
		s.overfull = true
		s.Log.Warn("more network namespaces than are kept prepared have appeared, of which the engine has not told whose they are; one whose container dials at once may be too early",
			"most", s.most, "hint", "see whether the engine answers: docker ps")
	}
}

// hasten is follow for what cannot wait until table is everybody's: what is redirected in
// namespaces that appear, and in those whose owner is not known yet.
func (s *earlySet) hasten(table *identity.Table) {
	s.mu.Lock()
	s.declare(table)
	var wider []*earlyNamespace
	if len(s.there) > 0 { // or no mounts have to be looked at
		wider = s.widen(startersPorts(table.Starters(sandbox.Mounted)))
	}
	s.mu.Unlock()
	hurry(wider)
}

// hurryPatience is how long is waited for messages to the kernel. They take 0.2 ms, but have to
// wait for the process that is changing rules in that namespace, which may be the container's.
const hurryPatience = 20 * time.Millisecond

// hurry has what early namespaces want redirected at once, or else soon. No lock is held.
func hurry(all []*earlyNamespace) {
	if len(all) == 0 {
		return
	}
	var hurrying sync.WaitGroup
	for _, e := range all {
		hurrying.Go(e.redirects.hurry)
	}
	done := make(chan struct{})
	go func() { hurrying.Wait(); close(done) }()
	late := time.NewTimer(hurryPatience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
}

// widen has ports redirected in all whose owner is not known yet, and returns those that are to hurry.
// s.mu is held.
func (s *earlySet) widen(ports []netrules.Port) (wider []*earlyNamespace) {
	for _, e := range s.there {
		if e.widen(ports) {
			wider = append(wider, e)
		}
	}
	return wider
}

// follow prepares what has been declared since a namespace has appeared whose owner is not known yet.
// It comes after claim and decline for all that is in table.
func (s *earlySet) follow(ctx context.Context, table *identity.Table) {
	s.mu.Lock()
	s.followed = table
	s.declare(table) // if it has not been since hasten
	if len(s.idle) == 0 && len(s.there) == 0 || s.departed {
		s.mu.Unlock()
		return
	}
	ports := startersPorts(table.Starters(sandbox.Mounted))
	wider := s.widen(ports) // those that have appeared since hasten by an older table
	s.rouse(ctx, table, ports)
	for name, e := range s.there { // those that have appeared between decline and this
		if n, known := table.Sandbox(name); known && s.owners[name] == nil {
			e.life.decide(verdict{client: route.ClientOf(n.Clients[0])})
		}
	}
	s.mu.Unlock()
	hurry(wider)
}

// resume serves what has appeared before the rules were ours to change.
func (s *earlySet) resume(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	table := s.Clients.Load()
	s.rouse(ctx, table, startersPorts(table.Starters(sandbox.Mounted)))
}

// rouse serves those that were kept in mind, if a container declares ports. s.mu is held.
func (s *earlySet) rouse(ctx context.Context, table *identity.Table, ports []netrules.Port) {
	for where, since := range s.idle {
		_, known := table.Sandbox(path.Base(where))
		switch {
		case known, time.Since(since) > unclaimedPatience, !sandbox.Mounted(where):
			delete(s.idle, where)
		case len(ports) > 0 && s.Turn.Ours() && !s.departed:
			delete(s.idle, where)
			s.serve(ctx, where, ports, nil)
		}
	}
}

// serve starts to work on the namespace at where. s.mu is held.
func (s *earlySet) serve(ctx context.Context, where string, ports []netrules.Port, made *preparer.Made) *earlyNamespace {
	name := path.Base(where)
	e := newEarlyNamespace(s, where, ports, made)
	s.there[name] = e
	s.running.Go(func() {
		runEarly(ctx, e.life, e)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.there[name] == e && !e.life.in(leftBehind, leftBehindKnown) {
			delete(s.there, name)
		}
	})
	return e
}

// claim says that n, which at will serve, declares something. It returns what was
// prepared in n, for at to take over; nil if nothing was. A preparation that ends later is
// offered to at.
func (s *earlySet) claim(at *attachment, n *identity.Namespace) *earlyNamespace {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := path.Base(n.Owner.SandboxKey)
	s.owners[name] = at
	e := s.there[name]
	if e == nil {
		return nil
	}
	delete(s.there, name)
	e.life.decide(verdict{owner: at})
	return e
}

// disown says that at serves its namespace no more.
func (s *earlySet) disown(at *attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name := path.Base(at.desired.Load().Owner.SandboxKey); s.owners[name] == at {
		delete(s.owners, name)
	}
}

// decline says that n declares nothing.
func (s *earlySet) decline(n *identity.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.there[path.Base(n.Owner.SandboxKey)]; e != nil {
		e.life.decide(verdict{client: route.ClientOf(n.Clients[0])})
	}
}

// forget ends all that would serve more namespaces. s.mu is held, and no one watches.
func (s *earlySet) forget() {
	s.departed = true
	clear(s.idle)
	s.process.forget()
}

// unhook waits until no connection is redirected any more in a namespace
// without an owner. The context of watch has ended, and with it the wait for an owner.
func (s *earlySet) unhook() {
	s.watching.Wait()
	s.mu.Lock()
	s.forget()
	there := make([]*earlyNamespace, 0, len(s.there))
	for _, e := range s.there {
		there = append(there, e)
	}
	s.mu.Unlock()
	for _, e := range there {
		select {
		case <-e.life.unhooked:
		case <-e.life.done:
		}
	}
}

// release waits until every such namespace is as it was and let go of.
func (s *earlySet) release() { s.running.Wait() }

// leave ends the watch and the work on namespaces whose owner is not known yet. A namespace
// that was let go of before is seen to its end. The new daemon watches by now; what our process has
// prepared until its end is told of before the watch ends, and left like the rest.
func (s *earlySet) leave() {
	if s.stop != nil {
		s.stop()
	}
	s.watching.Wait()
	s.mu.Lock()
	s.forget()
	there := make([]*earlyNamespace, 0, len(s.there))
	for _, e := range s.there {
		e.life.on(takenOver)
		there = append(there, e)
	}
	s.mu.Unlock()
	for _, e := range there {
		select {
		case <-e.life.unhooked:
		case <-e.life.done:
		}
	}
	s.behind = there
}

// left lets go of the namespaces that leave has kept.
func (s *earlySet) left() {
	for _, e := range s.behind {
		select {
		case <-e.life.done:
			if e.life.in(leftBehind, leftBehindKnown) && e.ns != nil {
				e.close()
			}
		default: // it waits for connections in flight, and cleans up
		}
	}
}
