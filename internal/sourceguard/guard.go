// Package sourceguard says which container has a source address, provably. In modes host and link
// a client is known by its address alone, which a container with NET_RAW can forge. A Guard keeps a
// table of nftables' family bridge that lets through what comes from a container's address only by
// the bridge ports that this container is behind; its Router believes an address by that, or asks
// the engine, and refuses what may be forged.
package sourceguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/reconcile"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Config is what a Guard needs of the daemon.
type Config struct {
	Settings *settings.Current
	Turn     *handover.Turn
	Namespaces
	// OwnStack names the kind of the runtime of that name if it has a network stack of its own.
	OwnStack func(ctx context.Context, runtime string) string
	// Allowed is why this process may not make a guard; nil if it may.
	Allowed error
	Log     *slog.Logger
}

// Namespaces opens the network namespaces of containers: *dockerd.Watcher.
type Namespaces interface {
	OpenNamespace(ctx context.Context, owner *dockerd.Container) (*netns.Namespace, error)
}

// Guard keeps a guard.Guard in step with the identity table: which container's
// address is behind which port of a bridge. One goroutine, run, works on it.
type Guard struct {
	Config
	ns   *netns.Namespace // where the bridges are; nil for our own
	name string           // of the table
	ours []netip.Addr     // what clients dial

	links *netns.Links // of ns; nil where they cannot be known

	desired              atomic.Pointer[identity.Table]
	changed              chan struct{} // holds a token when desired has been replaced
	bound                atomic.Pointer[map[netip.Addr]evidence]
	kept                 atomic.Pointer[map[netip.Addr]evidence] // what was bound when another daemon's guard had taken over
	first                chan struct{}                           // closed when a table has been followed
	whole                chan struct{}                           // closed when all of its addresses were bound
	firstOnce, wholeOnce sync.Once
	stop                 context.CancelFunc
	done                 chan struct{} // closed when run has returned

	// What follows belongs to run.
	guard *guard.Guard
	known map[string]*portBinding // by the owner's container ID
}

// portBinding is what was found of one container.
type portBinding struct {
	owner    *dockerd.Container
	bindings []guard.Binding
	complete bool   // bindings are those of all its addresses
	logged   string // the last failure that was logged
}

// Start installs the guard of ours, the addresses that clients dial, where the bridges are, ns (nil for
// our own namespace), in a table with that name, and runs until End. On an error there is none: it
// returns nil, and has logged the absence.
func Start(ctx context.Context, c Config, ns *netns.Namespace, name string, ours []netip.Addr) *Guard {
	err := c.Allowed
	var g *guard.Guard
	if err == nil && c.Turn.Ours() { // else the other daemon's guard is there until ours knows who is
		g, err = guard.Install(ns, name, ours, nil)
	}
	if err != nil {
		c.WarnUnguarded(err)
		return nil
	}
	s := &Guard{
		Config: c, ns: ns, name: name, ours: ours, guard: g,
		changed: make(chan struct{}, 1), first: make(chan struct{}), whole: make(chan struct{}), done: make(chan struct{}), known: map[string]*portBinding{},
	}
	if s.links, err = ns.Links(); err != nil {
		c.Log.Warn("the engine will be asked at each connection whose it is", "error", err,
			"hint", "raise the limit of open files (ulimit -n) and restart")
	}
	ctx, s.stop = context.WithCancel(ctx)
	go s.run(ctx)
	return s
}

// binds reports whether addr can come from its container's bridge port alone. A
// nil Guard binds nothing.
func (s *Guard) binds(addr netip.Addr) bool {
	if s == nil {
		return false
	}
	for _, bound := range []*map[netip.Addr]evidence{s.bound.Load(), s.kept.Load()} {
		if bound == nil {
			continue
		}
		if _, ok := (*bound)[addr]; ok {
			return true
		}
	}
	return false
}

// Follow makes it work by table, soon. A nil Guard has nothing to do.
func (s *Guard) Follow(table *identity.Table) {
	if s == nil {
		return
	}
	s.desired.Store(table)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// End removes the guard. Once the table is not followed any more, old bindings
// would cut off the next owner of an address.
func (s *Guard) End() {
	if s == nil {
		return
	}
	s.stop()
	<-s.done
}

// wholePatience is how long to wait for addresses that cannot be bound, before those
// that can must do: a container may just be starting.
const wholePatience = 3 * time.Second

// Ready waits until the addresses of all containers are bound. A nil Guard binds none.
func (s *Guard) Ready(ctx context.Context) error {
	if s == nil {
		return nil
	}
	select {
	case <-s.first:
	case <-ctx.Done():
		return fmt.Errorf("bind the addresses of containers to their bridge ports: %w", context.Cause(ctx))
	}
	enough := time.NewTimer(wholePatience)
	defer enough.Stop()
	select {
	case <-s.whole:
	case <-enough.C:
	case <-ctx.Done():
	}
	return nil
}

// Leave removes the guard, for another daemon has one. The bindings count for the
// connections that are being routed.
func (s *Guard) Leave() {
	if s == nil {
		return
	}
	s.kept.Store(s.bound.Load())
	s.End()
}

// errIncomplete has the loop try again, without a word: find says what is missing if that lasts.
var errIncomplete = errors.New("not all addresses are bound")

// run follows the table. It tries again what failed, and looks at an interval for
// ports that have gone, lest a lost connection to the engine leaves old bindings.
func (s *Guard) run(ctx context.Context) {
	defer close(s.done)
	if s.links != nil {
		defer s.links.Close()
	}
	defer s.drop()
	logged := ""
	reconcile.Loop(ctx, reconcile.Options{Settings: s.Settings, Kicked: s.changed, Retry: true}, func(bool) error {
		complete, err := s.sync(ctx)
		switch {
		case err != nil && err.Error() != logged:
			logged = err.Error()
			s.Log.Error("cannot guard source addresses; trying again", "error", err, hint.Attr(err))
		case err == nil && complete:
			logged = ""
		case err == nil:
			err = errIncomplete
		}
		return err
	})
}

// drop gives the guard up.
func (s *Guard) drop() {
	s.bound.Store(nil)
	if s.guard != nil {
		_ = s.guard.Close() // the table goes with the socket, whatever it says
		s.guard = nil
	}
}

// sync binds every address of the table that can be found; complete is whether
// all of them could.
func (s *Guard) sync(ctx context.Context) (complete bool, err error) {
	table := s.desired.Load()
	if s.guard == nil && table == nil && !s.Turn.Ours() {
		return false, nil // a guard that knows nobody would cut off whom the other daemon's lets through
	}
	wiring, err := netns.ReadWiring(s.ns)
	if err != nil {
		return false, err
	}
	complete = true
	known := map[string]*portBinding{}
	var bindings []guard.Binding
	owners := map[string][]guard.Binding{}
	if table != nil {
		for _, n := range table.Namespaces() {
			if !Guarded(n) {
				continue
			}
			c := s.find(ctx, wiring, n)
			known[n.Owner.ID] = c
			owners[n.Owner.ID] = c.bindings
			bindings = append(bindings, c.bindings...)
			complete = complete && c.complete
		}
	}
	s.known = known
	if s.guard == nil {
		if s.guard, err = s.install(bindings); err != nil {
			return false, err
		}
	} else if err := s.guard.Bind(bindings); err != nil {
		s.drop()
		return false, err
	}
	var before map[netip.Addr]evidence
	if was := s.bound.Load(); was != nil {
		before = *was
	}
	bound := evidenceOf(owners, before, time.Now())
	s.bound.Store(&bound)
	if table != nil {
		s.firstOnce.Do(func() { close(s.first) })
		if complete {
			s.wholeOnce.Do(func() { close(s.whole) })
		}
	}
	return complete, nil
}

// install makes a guard that knows bindings from its first moment. While another
// daemon's is there, the table has another name than that.
func (s *Guard) install(bindings []guard.Binding) (*guard.Guard, error) {
	g, err := guard.Install(s.ns, s.name, s.ours, bindings)
	if !s.Turn.Ours() && (errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM)) {
		s.name += successorSuffix
		g, err = guard.Install(s.ns, s.name, s.ours, bindings)
	}
	return g, err
}

// successorSuffix ends the name of the table of every other daemon in a row that take
// over from each other.
const successorSuffix = "_successor"

// find looks up the ports of a container, unless it was found before and nothing
// has changed.
func (s *Guard) find(ctx context.Context, wiring *netns.Wiring, n *identity.Namespace) *portBinding {
	was := s.known[n.Owner.ID]
	if was != nil && was.owner == n.Owner && was.complete {
		still := true
		for _, b := range was.bindings {
			still = still && wiring.Has(b.Port)
		}
		if still {
			return was
		}
	}
	c := &portBinding{owner: n.Owner}
	var err error
	c.bindings, err = Bindings(ctx, s.Config, wiring, n)
	c.complete = err == nil
	switch {
	case err == nil:
	case was == nil || was.owner != n.Owner: // it may be gone, or not be there yet: say so if it lasts
		c.logged = ""
	case was.logged != err.Error():
		c.logged = err.Error()
		s.Log.Warn("cannot bind a container's address to its bridge port", "client", n.Owner.Name, "id", n.Owner.ShortID(),
			"error", err, hint.Attr(err))
	default:
		c.logged = was.logged
	}
	return c
}

// Bindings binds the addresses of n's owner to the bridge ports that it is behind: each
// to all of them, for when its default route moves from one network to another, open
// connections follow it. The error says why not all addresses.
func Bindings(ctx context.Context, c Config, wiring *netns.Wiring, n *identity.Namespace) ([]guard.Binding, error) {
	ns, err := c.OpenNamespace(ctx, n.Owner)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	ports, err := wiring.Behind(ns)
	if err != nil {
		return nil, err
	}
	own := map[int]bool{}
	for _, port := range ports {
		own[port] = true
	}
	kind := c.OwnStack(ctx, n.Owner.Runtime)
	if kind != "" { // such a runtime takes the addresses off the interfaces, and sends from them all the same
		cables, err := wiring.PortsOf(ns)
		if err != nil {
			return nil, err
		}
		for _, port := range cables {
			own[port] = true
		}
	}
	var bound []guard.Binding
	var missing []string
	for _, addr := range addrsOf(n.Owner) {
		if _, ok := ports[addr]; !ok && (kind == "" || len(own) == 0) {
			missing = append(missing, addr.String())
			continue
		}
		for port := range own {
			bound = append(bound, guard.Binding{Port: port, Addr: addr, Owner: identity.OwnerText(n.Owner)})
		}
	}
	if len(missing) > 0 {
		err = hint.Errorf("modes host and link serve containers on bridge networks of this host; for others use mode redirect, where they dial localhost",
			"behind no bridge port: %s", strings.Join(missing, ", "))
	}
	return bound, err
}

// Guarded reports whether the addresses of n's owner have to be bound.
func Guarded(n *identity.Namespace) bool {
	return n.Owner.NetworkMode != "host" && len(addrsOf(n.Owner)) > 0
}

// addrsOf are the addresses that a container was given.
func addrsOf(c *dockerd.Container) []netip.Addr {
	var addrs []netip.Addr
	for _, network := range c.Networks {
		for _, addr := range []netip.Addr{network.IPv4, network.IPv6} {
			if addr.IsValid() {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}
