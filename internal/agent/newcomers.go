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
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/netrules"
)

// newcomers serves new network namespaces before it is known whose they are, so
// that a container's first instruction may dial. The engine tells of a container
// only once it runs; until then the declarations of all that may be starting are
// served, and what else was caught with them is let through to where it was meant
// to go.
type newcomers struct {
	agent    *agent
	lanes    *lanes   // beside those of attachments
	folders  []string // where namespaces appear: the first that exists
	stop     func()   // ends the watch on folders; nil before the first
	watching sync.WaitGroup
	running  sync.WaitGroup // every newcomer

	mu     sync.Mutex
	there  map[string]*newcomer // by the namespace's name, until it is somebody's or let go of
	behind []*newcomer          // those that were left to another daemon
	idle   map[string]idler     // others that have appeared, by their paths

	preparer *preparer.Preparer // nil while there is none
	told     *identity.Table    // what that was told of last

	begin sync.Once
	began chan struct{} // closed by begun
}

func newNewcomers(a *agent) *newcomers {
	return &newcomers{agent: a, folders: sandbox.Folders(), lanes: newLanes(a, 8), there: map[string]*newcomer{},
		idle: map[string]idler{}, began: make(chan struct{})}
}

// watch watches until ctx ends, where table shows the engine to mount namespaces.
// There must be a table: without one nobody can say who is new.
func (ns *newcomers) watch(ctx context.Context, table *identity.Table) {
	if ns.stop != nil {
		folder := table.SandboxFolder()
		if folder == "" || slices.Contains(ns.folders, folder) {
			return
		}
		// Only now has a container shown that it is elsewhere.
		ns.stop()
		ns.folders = []string{folder}
	}
	// Its end is that of the watch alone: what is served already stays so.
	watching, stop := context.WithCancel(ctx)
	ns.stop = stop
	folders := ns.folders
	ns.watching.Go(func() {
		defer ns.begun()
		if !ns.agent.own(watching, nil) {
			return
		}
		if err := ns.await(ctx, watching, folders); err != nil {
			ns.agent.log.Warn("cannot watch the engine's network namespaces; a container that dials at once may be too early",
				"error", err, hint.Attr(err))
		}
	})
}

// appeared serves the namespace at where, in which made was prepared, unless it is known. While
// nobody who declares anything may be in it, it is kept in mind: the mount may be seen before
// the engine's word of whose it is.
func (ns *newcomers) appeared(ctx context.Context, where string, made *preparer.Made) {
	name := path.Base(where)
	ns.mu.Lock()
	defer ns.mu.Unlock()
	// Under the lock: who is not in this table yet will be in one that claim or
	// decline are called for, after this.
	table := ns.agent.table.load()
	if _, known := table.Sandbox(name); known || ns.there[name] != nil {
		if made != nil {
			made.Close()
		}
		return
	}
	if engine := ns.agent.docker; engine != nil {
		engine.CatchUp() // its declarations may be on their way to us
	}
	ports := startersPorts(table.Starters(sandbox.Mounted))
	if made != nil && made.Rules != nil {
		_ = made.Rules.Update(ports) // it may be too late when the newcomer comes to it
	}
	if len(ports) == 0 {
		ns.idle[where] = idler{time.Now(), made}
		return
	}
	ns.serve(ctx, where, ports, made)
}

// idler is a namespace that has appeared while nobody declared anything.
type idler struct {
	since time.Time
	made  *preparer.Made
}

// forget lets go of the one at where. ns.mu is held.
func (ns *newcomers) forget(where string) {
	if made := ns.idle[where].made; made != nil {
		made.Close()
	}
	delete(ns.idle, where)
}

// forgetAll lets go of all of them. ns.mu is held.
func (ns *newcomers) forgetAll() {
	for where := range ns.idle {
		ns.forget(where)
	}
}

// hasten is follow for what cannot wait until table is everybody's: what is redirected in
// namespaces that appear, and in those that are nobody's yet.
func (ns *newcomers) hasten(table *identity.Table) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.declare(table)
	if len(ns.there) > 0 { // or nobody has to look for mounts
		ns.widen(startersPorts(table.Starters(sandbox.Mounted)))
	}
}

// widen redirects ports in all that are nobody's yet. ns.mu is held.
func (ns *newcomers) widen(ports []netrules.Port) {
	for _, nc := range ns.there {
		if nc.widen(ports) {
			nc.ahead.hurry()
		}
	}
}

// follow prepares what has been declared since a namespace that is nobody's yet
// has appeared.
func (ns *newcomers) follow(ctx context.Context, table *identity.Table) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.declare(table) // if it has not been since hasten
	if len(ns.idle) == 0 && len(ns.there) == 0 {
		return
	}
	ports := startersPorts(table.Starters(sandbox.Mounted))
	ns.widen(ports) // those that have appeared since hasten by an older table
	for where, i := range ns.idle {
		_, known := table.Sandbox(path.Base(where))
		switch {
		case known, time.Since(i.since) > unclaimedPatience, !sandbox.Mounted(where):
			ns.forget(where)
		case len(ports) > 0:
			delete(ns.idle, where)
			ns.serve(ctx, where, ports, i.made)
		}
	}
}

// serve starts to work on the namespace at where. ns.mu is held.
func (ns *newcomers) serve(ctx context.Context, where string, ports []netrules.Port, made *preparer.Made) {
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
// prepared in n, for at to take over; nil if nothing was.
func (ns *newcomers) claim(at *attachment, n *identity.Namespace) *newcomer {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	name := path.Base(n.Owner.SandboxKey)
	nc := ns.there[name]
	if nc == nil {
		return nil
	}
	delete(ns.there, name)
	nc.decide(verdict{owner: at})
	return nc
}

// decline says that n declares nothing.
func (ns *newcomers) decline(n *identity.Namespace) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if nc := ns.there[path.Base(n.Owner.SandboxKey)]; nc != nil {
		nc.decide(verdict{client: clientOf(n.Clients[0])})
	}
}

// unhook waits until no connection is redirected any more in a namespace that is
// nobody's. The context of watch has ended, and with it the wait for an owner.
func (ns *newcomers) unhook() {
	ns.watching.Wait()
	ns.mu.Lock()
	ns.forgetAll()
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
