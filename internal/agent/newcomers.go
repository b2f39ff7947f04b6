package agent

import (
	"cmp"
	"context"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/netrules"
)

// newcomers serves new network namespaces before it is known whose they are, so
// that a container's first instruction may dial. The engine tells of a container
// only once it runs; until then the declarations of all that may be starting are
// served, and what else was caught with them is let through to where it was meant
// to go.
type newcomers struct {
	agent      *agent
	lanes      *ruleslots.Slots // beside those of attachments
	folders    []string         // where namespaces appear: the first that exists
	stop       func()           // ends the watch on folders, and the process; nil before start
	beginWatch func()           // begins it; nil once it has
	watching   sync.WaitGroup
	running    sync.WaitGroup // every newcomer

	mu        sync.Mutex
	there     map[string]*newcomer   // by the namespace's name, until it is somebody's or let go of
	owners    map[string]*attachment // by the namespace's name: who serves it
	followed  *identity.Table        // by which claim and decline were called last
	idle      map[string]time.Time   // by path: others that have appeared, and when
	unclaimed []*newcomer            // those of whose namespace nobody declares anything, the oldest first
	most      int                    // of these
	overfull  bool                   // they were too many, and the log says so
	behind    []*newcomer            // those that were left to another daemon
	departed  bool                   // another daemon goes on
	preparing preparing

	begin sync.Once
	began chan struct{} // closed by begun
}

func newNewcomers(a *agent) *newcomers {
	return &newcomers{agent: a, folders: sandbox.Folders(), lanes: ruleslots.New(a.rules, 8), there: map[string]*newcomer{},
		most: maxUnclaimed, owners: map[string]*attachment{}, idle: map[string]time.Time{}, preparing: newPreparing(), began: make(chan struct{})}
}

// start starts the process that prepares namespaces, until ctx ends. That takes as long as the
// engine's first list, so the two are done beside each other; it watches from watch on.
func (ns *newcomers) start(ctx context.Context) {
	// Its end is that of the watch alone: what is served already stays so.
	watching, stop := context.WithCancel(ctx)
	ns.stop = stop
	folders := ns.folders
	ns.watching.Go(func() {
		defer ns.begun()
		ns.prepareAhead(ctx, watching, folders)
	})
	ns.beginWatch = func() {
		ns.watching.Go(func() {
			err := sandbox.Watch(watching, folders, func(path string) { ns.seen(ctx, path) })
			if err != nil {
				ns.agent.log.Warn("cannot watch the engine's network namespaces; a container that dials at once may be too early",
					"error", err, hint.Attr(err))
			}
		})
		ns.watching.Go(func() {
			if ns.agent.own(watching, nil) {
				ns.resume(ctx)
			}
		})
	}
}

// watch watches until ctx ends, where table shows the engine to mount namespaces. It begins
// also while another daemon owns the rules, so that somebody watches at every moment: until that
// has let go, we prepare what it has not.
// There must be a table: without one nobody can say who is new.
func (ns *newcomers) watch(ctx context.Context, table *identity.Table) {
	if ns.stop == nil {
		ns.start(ctx)
	}
	if ns.beginWatch == nil {
		folder := table.SandboxFolder()
		if folder == "" || slices.Contains(ns.folders, folder) {
			return
		}
		// Only now has a container shown that it is elsewhere.
		ns.stop()
		ns.folders = []string{folder}
		ns.start(ctx)
	}
	ns.beginWatch()
	ns.beginWatch = nil
	ns.mu.Lock()
	ns.preparing.mayWatch = true
	ns.declare(table)
	ns.mu.Unlock()
}

// appeared serves the namespace at where, in which made was prepared; nil is nothing. It may be
// told of one more than once, and before or after the engine's word of whose it is. While
// nobody who declares anything may be in it, and nothing is prepared, it is kept in mind.
func (ns *newcomers) appeared(ctx context.Context, where string, made *preparer.Made) {
	if nc := ns.receive(ctx, where, made); nc != nil && made != nil {
		hurry([]*newcomer{nc}) // it may be too late when its run comes to it
	}
}

// receive is appeared but for what is to be redirected by now, which may have changed since made
// was. It returns who serves the namespace from now on, nil if nobody does, or did before.
func (ns *newcomers) receive(ctx context.Context, where string, made *preparer.Made) *newcomer {
	name := path.Base(where)
	ns.mu.Lock()
	defer ns.mu.Unlock()
	// Under the lock: who is not in this table yet will be in one that claim or
	// decline are called for, after this.
	table := ns.agent.table.load()
	n, known := table.Sandbox(name)
	switch at, nc := ns.owners[name], ns.there[name]; {
	case ns.departed:
		ns.discard(made)
		return nil
	case at != nil || nc != nil:
		if made != nil && (nc == nil || !nc.offer(made)) && (at == nil || !at.offer(made)) {
			ns.discard(made)
		}
		return nil
	case known && made == nil:
		return nil // its attachment does without
	case !known && ns.agent.docker != nil:
		ns.agent.docker.CatchUp() // its declarations may be on their way to us
	}
	var ports []netrules.Port
	if !known {
		ports = startersPorts(table.Starters(sandbox.Mounted))
	}
	if made == nil && (len(ports) == 0 || !ns.agent.owns()) {
		ns.idle[where] = time.Now()
		return nil
	}
	delete(ns.idle, where)
	nc := ns.serve(ctx, where, ports, made)
	switch {
	case known && table == ns.followed:
		nc.decide(verdict{client: clientOf(n.Clients[0])}) // else the owner would have claimed it
	case len(ports) == 0:
		ns.bound(nc)
	}
	return nc
}

// discard undoes made, not under ns.mu: the kernel has us wait for whoever is changing rules in
// that namespace, and that may be the container.
func (ns *newcomers) discard(made *preparer.Made) { go made.Close() }

// maxUnclaimed is how many namespaces we keep prepared in which nobody declares anything, for
// those that the engine may tell of.
const maxUnclaimed = 256

// bound lets go of the oldest of those that are kept for nobody, if there are too many with
// nc. ns.mu is held.
func (ns *newcomers) bound(nc *newcomer) {
	ns.unclaimed = slices.DeleteFunc(ns.unclaimed, func(nc *newcomer) bool { return !nc.vain() })
	ns.unclaimed = append(ns.unclaimed, nc)
	if len(ns.unclaimed) <= ns.most {
		return
	}
	ns.unclaimed[0].decide(verdict{})
	ns.unclaimed = ns.unclaimed[1:]
	if !ns.overfull {
		ns.overfull = true
		ns.agent.log.Warn("more network namespaces than are kept prepared have appeared, of which the engine has not told whose they are; one whose container dials at once may be too early",
			"most", ns.most, "hint", "see whether the engine answers: docker ps")
	}
}

// hasten is follow for what cannot wait until table is everybody's: what is redirected in
// namespaces that appear, and in those that are nobody's yet.
func (ns *newcomers) hasten(table *identity.Table) {
	ns.mu.Lock()
	ns.declare(table)
	var wider []*newcomer
	if len(ns.there) > 0 { // or nobody has to look for mounts
		wider = ns.widen(startersPorts(table.Starters(sandbox.Mounted)))
	}
	ns.mu.Unlock()
	hurry(wider)
}

// hurryPatience is how long is waited for messages to the kernel. They take 0.2 ms, but have to
// wait for whoever is changing rules in that namespace, and that may be the container.
const hurryPatience = 20 * time.Millisecond

// hurry has what newcomers want redirected at once, or else soon. No lock is held.
func hurry(all []*newcomer) {
	if len(all) == 0 {
		return
	}
	var hurrying sync.WaitGroup
	for _, nc := range all {
		hurrying.Go(nc.ahead.hurry)
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

// widen has ports redirected in all that are nobody's yet, and returns those that are to hurry.
// ns.mu is held.
func (ns *newcomers) widen(ports []netrules.Port) (wider []*newcomer) {
	for _, nc := range ns.there {
		if nc.widen(ports) {
			wider = append(wider, nc)
		}
	}
	return wider
}

// follow prepares what has been declared since a namespace that is nobody's yet has appeared.
// It comes after claim and decline for all that is in table.
func (ns *newcomers) follow(ctx context.Context, table *identity.Table) {
	ns.mu.Lock()
	ns.followed = table
	ns.declare(table) // if it has not been since hasten
	if len(ns.idle) == 0 && len(ns.there) == 0 || ns.departed {
		ns.mu.Unlock()
		return
	}
	ports := startersPorts(table.Starters(sandbox.Mounted))
	wider := ns.widen(ports) // those that have appeared since hasten by an older table
	ns.rouse(ctx, table, ports)
	for name, nc := range ns.there { // those that have appeared between decline and this
		if n, known := table.Sandbox(name); known && ns.owners[name] == nil {
			nc.decide(verdict{client: clientOf(n.Clients[0])})
		}
	}
	ns.mu.Unlock()
	hurry(wider)
}

// resume serves what has appeared before the rules were ours to change.
func (ns *newcomers) resume(ctx context.Context) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	table := ns.agent.table.load()
	ns.rouse(ctx, table, startersPorts(table.Starters(sandbox.Mounted)))
}

// rouse serves those that were kept in mind, if somebody declares ports. ns.mu is held.
func (ns *newcomers) rouse(ctx context.Context, table *identity.Table, ports []netrules.Port) {
	for where, since := range ns.idle {
		_, known := table.Sandbox(path.Base(where))
		switch {
		case known, time.Since(since) > unclaimedPatience, !sandbox.Mounted(where):
			delete(ns.idle, where)
		case len(ports) > 0 && ns.agent.owns() && !ns.departed:
			delete(ns.idle, where)
			ns.serve(ctx, where, ports, nil)
		}
	}
}

// serve starts to work on the namespace at where. ns.mu is held.
func (ns *newcomers) serve(ctx context.Context, where string, ports []netrules.Port, made *preparer.Made) *newcomer {
	name := path.Base(where)
	nc := newNewcomer(ns, where, ports, made)
	ns.there[name] = nc
	ns.running.Go(func() {
		nc.run(ctx)
		ns.mu.Lock()
		defer ns.mu.Unlock()
		if ns.there[name] == nc && !nc.leftBehind {
			delete(ns.there, name)
		}
	})
	return nc
}

const (
	// maxEarly is how many ports are redirected in a namespace that is nobody's yet:
	// anybody who may be about to start can add to them, and everybody who starts waits for
	// the rules.
	maxEarly = 512
	// maxEarlyLooks bounds how many declarations are looked at for that.
	maxEarlyLooks = 1 << 16
)

// startersPorts are the ports that any of clients declares, each with one who does. Where
// they are more than maxEarly each client gets its first, then each its second, and so on:
// nobody who declares many takes the places of those who declare few. Those that have just
// been created come first. A port that is left out is redirected once its container runs.
func startersPorts(clients []*identity.Client) []netrules.Port {
	clients = slices.Clone(clients)
	slices.SortStableFunc(clients, func(a, b *identity.Client) int {
		return cmp.Compare(rankOfStarter(a), rankOfStarter(b))
	})
	var ports []netrules.Port
	declared, looks := map[uint16]bool{}, 0
	for turn, more := 0, true; more; turn++ {
		more = false
		for _, c := range clients {
			own := c.Bindings.Ports()
			if turn >= len(own) {
				continue
			}
			if looks++; len(ports) >= maxEarly || looks > maxEarlyLooks {
				return ports
			}
			more = true
			if port := own[turn]; !declared[port] {
				declared[port] = true
				b, _ := c.Bindings.Lookup(port)
				ports = append(ports, redirectPort(c, b))
			}
		}
	}
	return ports
}

// rankOfStarter is 0 for a container that was just created, and 1 for others.
func rankOfStarter(c *identity.Client) int {
	if c.Container.Announced || c.Container.StartedAt.IsZero() {
		return 0
	}
	return 1
}

// claim says that n, which at will serve, declares something. It returns what was
// prepared in n, for at to take over; nil if nothing was. What is prepared later at is offered.
func (ns *newcomers) claim(at *attachment, n *identity.Namespace) *newcomer {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	name := path.Base(n.Owner.SandboxKey)
	ns.owners[name] = at
	nc := ns.there[name]
	if nc == nil {
		return nil
	}
	delete(ns.there, name)
	nc.decide(verdict{owner: at})
	return nc
}

// disown says that at serves its namespace no more.
func (ns *newcomers) disown(at *attachment) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if name := path.Base(at.desired.Load().Owner.SandboxKey); ns.owners[name] == at {
		delete(ns.owners, name)
	}
}

// decline says that n declares nothing.
func (ns *newcomers) decline(n *identity.Namespace) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if nc := ns.there[path.Base(n.Owner.SandboxKey)]; nc != nil {
		nc.decide(verdict{client: clientOf(n.Clients[0])})
	}
}

// forget ends all that would serve more namespaces. ns.mu is held, and no one watches.
func (ns *newcomers) forget() {
	ns.departed = true
	clear(ns.idle)
	ns.preparing.forget()
}

// unhook waits until no connection is redirected any more in a namespace that is
// nobody's. The context of watch has ended, and with it the wait for an owner.
func (ns *newcomers) unhook() {
	ns.watching.Wait()
	ns.mu.Lock()
	ns.forget()
	there := make([]*newcomer, 0, len(ns.there))
	for _, nc := range ns.there {
		there = append(there, nc)
	}
	ns.mu.Unlock()
	for _, nc := range there {
		select {
		case <-nc.unhooked:
		case <-nc.done:
		}
	}
}

// release waits until every such namespace is as it was and let go of.
func (ns *newcomers) release() { ns.running.Wait() }
