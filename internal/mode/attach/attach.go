// Package attach is modes redirect and listen: the daemon is in the network namespace of each
// container that declares a port. In mode redirect a rule leads the declared ports to one socket
// there, in mode listen there is a socket at each. Mode keeps one attachment for each namespace; the
// files early*.go serve namespaces before it is known whose they are, so that a container's first
// instruction may dial: earlylife.go has the states of one, earlyset.go all that there are.
package attach

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/attached"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/listenset"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/internal/refusal"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Config is what the mode needs of the daemon.
type Config struct {
	Name      config.Mode // Redirect or Listen
	Settings  *settings.Current
	Clients   *identity.Latest
	Routes    *route.Router
	Hold      *hold.Hold
	Sockets   *listenset.Set
	Turn      *handover.Turn
	Rules     filter.Rules // nil in mode listen
	Targets   refusal.Targets
	Engine    Engine // nil in tests without containers
	Runtimes  *ociruntime.Runtimes
	Preparer  []string // the command of the process that prepares namespaces; config.Config.Preparer
	MustStay  func(ns *netns.Namespace) bool
	Leftovers Leftovers
	Attached  *attached.Namespaces // is told of each attachment; nil in tests that ask nobody
	Ready     <-chan struct{}      // closed when the daemon is ready
	Log       *slog.Logger
}

// Engine is what the mode asks of the container engine: *dockerd.Watcher.
type Engine interface {
	OpenNamespace(ctx context.Context, owner *dockerd.Container) (*netns.Namespace, error)
	CatchUp() // a container's declarations may be on their way to us
}

// Leftovers takes what the daemon before this one has left, and the mode has no use for.
type Leftovers interface {
	Leave(ns *netns.Namespace) // unhooks the rules in ns, and closes it in the end
	Failed(err error)
}

// Mode keeps one attachment for each network namespace in which a port is declared. It is a
// mode.Mode.
type Mode struct {
	*Config
	live  map[string]*attachment // by the owner's container ID
	slots *ruleslots.Slots
	early *earlySet
	wg    sync.WaitGroup

	departed bool                 // left to another daemon
	swept    map[string]time.Time // by the owner's container ID: see sweep
}

// Start serves no namespace yet; Update says which to serve. Its goroutines end with ctx.
func Start(ctx context.Context, c Config) *Mode {
	m := newMode(&c)
	if mode.Of(c.Name).Early {
		m.early.start(ctx)
	}
	return m
}

func newMode(c *Config) *Mode {
	return &Mode{Config: c, live: map[string]*attachment{}, slots: newSlots(c, 4), early: newEarlySet(c)}
}

// newSlots are n slots to work on rules at once.
func newSlots(c *Config, n int) *ruleslots.Slots {
	if c.Rules == nil {
		return ruleslots.New(nil, n)
	}
	return ruleslots.New(c.Rules, n)
}

// Hasten does what cannot wait until Update: a container may be about to dial.
func (m *Mode) Hasten(table *identity.Table) {
	if m.Name == config.Redirect && !m.departed {
		m.early.hasten(table)
	}
}

// attachPatience is how long attaching to the containers that are there waits until the daemon is
// ready.
const attachPatience = 200 * time.Millisecond

// awaitReady returns when the daemon is ready, at the latest when attachPatience is over, or ending is
// closed. Attaching to hundreds of containers keeps every processor busy: it would have the
// little wait that is to be done before.
func (c *Config) awaitReady(ending <-chan struct{}) {
	select {
	case <-c.Ready: // nearly always
		return
	default:
	}
	late := time.NewTimer(attachPatience)
	defer late.Stop()
	select {
	case <-c.Ready:
	case <-late.C:
	case <-ending:
	}
}

// Update is part of mode.Mode. It starts the work and does not wait for it: a container that is slow
// to attach delays no other.
func (m *Mode) Update(ctx context.Context, table *identity.Table) {
	if m.departed {
		m.decideLeftBehind(table)
		return
	}
	if m.Name == config.Redirect {
		m.early.watch(ctx, table)
	}
	there := map[string]bool{}
	for _, n := range table.Namespaces() {
		if n.Owner.NetworkMode == "host" {
			continue
		}
		id := n.Owner.ID
		at := m.live[id]
		if at != nil && !at.same(n) { // restarted: a new namespace under the old ID
			m.drop(id)
			at = nil
		}
		switch {
		case at != nil:
			if at.follow(n) {
				m.wg.Go(at.redirects.hurry) // run may be at what another has declared
			}
		case attaches(m.Name, n):
			at = newAttachment(m, n)
			if at.early = m.early.claim(at, n); at.early == nil {
				at.adopt(ctx)
			}
			m.live[id] = at
			m.wg.Go(func() {
				m.awaitReady(at.ending)
				at.run(ctx)
			})
		default:
			m.early.decline(n)
			if n.LeftBehind() {
				m.sweep(ctx, n)
			}
		}
		there[id] = true
	}
	m.early.follow(ctx, table)
	for id := range m.swept {
		if !there[id] {
			delete(m.swept, id)
		}
	}
	for id := range m.live {
		if !there[id] {
			m.drop(id)
		}
	}
}

// drop ends the attachment of a container whose namespace has died, and its rules with it.
func (m *Mode) drop(id string) {
	at := m.live[id]
	at.end(false)
	m.Attached.Drop(id)
	m.early.disown(at)
	delete(m.live, id)
}

// sweep has no new connection led to us any more, once, in the namespace of a container that
// has left n to other containers, which declare nothing. The chain stays, which their live connections
// need, until the namespace goes.
func (m *Mode) sweep(ctx context.Context, n *identity.Namespace) {
	since := n.Owner.StartedAt
	if was, swept := m.swept[n.Owner.ID]; m.Name != config.Redirect || !m.Turn.Ours() || swept && was.Equal(since) {
		return
	}
	if m.swept == nil {
		m.swept = map[string]time.Time{}
	}
	m.swept[n.Owner.ID] = since
	m.wg.Go(func() {
		ns, err := m.Engine.OpenNamespace(ctx, n.Owner)
		if err != nil {
			return // it has ended
		}
		defer ns.Close()
		defer m.slots.Enter(ns)()
		if err := m.Rules.Unhook(ctx, ns); err != nil && ctx.Err() == nil {
			m.Log.Error("cannot remove the rules that are left in a container", "client", n.Owner.Name, "id", n.Owner.ShortID(),
				"error", err, "hint", "run: ambassadord rules remove")
		}
	})
}

// Ready is part of mode.Mode: Update has served every socket that the daemon before us served, and
// the daemon has called AwaitWatch.
func (m *Mode) Ready(context.Context) error { return nil }

// AwaitWatch returns when new network namespaces are watched for, if they are to be.
func (m *Mode) AwaitWatch(ctx context.Context) {
	if !mode.Of(m.Name).Early {
		return
	}
	select {
	case <-m.early.began:
	case <-time.After(watchPatience):
	case <-ctx.Done():
	}
}

// Stop is part of mode.Mode: no connection is redirected any more, and none is accepted.
// Connections that are being carried stay.
func (m *Mode) Stop(handOver bool) mode.Remains {
	if handOver {
		m.leave()
		return m
	}
	m.early.unhook()
	for _, at := range m.live {
		at.end(true)
	}
	m.wg.Wait()
	return m
}

// Routed is part of mode.Remains: it lets go of the namespaces.
func (m *Mode) Routed() {
	for _, at := range m.live {
		if at.ns != nil {
			at.close()
		}
	}
	m.early.left()
}

// Drained is part of mode.Remains: it removes the rules that Stop has left, and lets go of the
// namespaces. After a handover these are another daemon's.
func (m *Mode) Drained() {
	if m.departed {
		return
	}
	var wg sync.WaitGroup
	for _, at := range m.live {
		wg.Go(at.release)
	}
	wg.Wait()
	m.early.release()
}

// leave stops all work; sockets and rules stay as they are.
func (m *Mode) leave() {
	m.early.leave()
	for _, at := range m.live {
		at.leave()
	}
	m.wg.Wait()
	m.departed = true
}

// decideLeftBehind decides, after leave, to whom the early namespaces belong whose connections wait for
// that.
func (m *Mode) decideLeftBehind(table *identity.Table) {
	for _, n := range table.Namespaces() {
		if !attaches(m.Name, n) {
			m.early.decline(n)
			continue
		}
		at := newAttachment(m, n)
		at.end(false) // it attaches to nothing; another daemon does
		m.early.claim(at, n)
	}
}
