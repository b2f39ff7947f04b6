// Package route says where the connection of a client to a port goes. A Router takes the client
// and the port that it dialled (Flow), looks up what the client declares for it, and makes a
// proxy.Route: the set of servers that the target and its options stand for, a chooser that asks
// the resolver who serves the target and the balancer whom of them to dial, the limits that the
// connection has to pass, what the endpoint is told of the client (PROXY protocol), and what cuts
// the connection off when its endpoint leaves. Routes that can be shared are kept in a Cache.
//
// The policy is asked when a route is made, about its target, and again at each endpoint that is
// chosen (chooser.permits): never only when a route is cached.
package route

import (
	"context"
	"log/slog"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

// Targets answers who serves a target: *resolver.Resolver.
type Targets interface {
	Known(t resolver.Target, last *resolver.Resolution) (resolution *resolver.Resolution, known bool)
	Resolve(ctx context.Context, t resolver.Target, last *resolver.Resolution) (*resolver.Resolution, error)
	Doubt(ctx context.Context, t resolver.Target, of *resolver.Resolution) bool
}

// Pools has the endpoints of each target: *balance.Registry.
type Pools interface {
	Pool(target string, o balance.Options) *balance.Pool
}

// Snapshots is what the engine said last: *dockerd.Watcher.
type Snapshots interface {
	Snapshot() *dockerd.Snapshot
	Err() error // why it says nothing newer
}

// Images is what the engine knows of containers' images: *dockerd.Watcher.
type Images interface {
	Inspect(ctx context.Context, id string) (*dockerd.Container, error)
	Image(ctx context.Context, id string) (*dockerd.Image, error)
	KnowsImage(id string) bool
}

// Config is what a Router is made of.
type Config struct {
	Targets   Targets
	Pools     Pools
	Snapshots Snapshots // nil where there is no engine, as Images
	Images    Images
	Settings  *settings.Current
	Clients   *identity.Latest
	Hold      *hold.Hold
	// Inquire asks the engine what the container with that ID is now, for any number of connections
	// at a time.
	Inquire func(ctx context.Context, id string) (*dockerd.Container, error)
	Log     *slog.Logger

	// Containers says that clients are containers, of which nobody knows at first how many there
	// will be; else they are those of listeners alone.
	Containers bool
	// Limit bounds the daemon's connections, and Unknown those whose client is not known yet; nil
	// where there is no bound.
	Limit, Unknown *limit.Limit
}

// Router makes the routes of all clients.
type Router struct {
	targets    Targets
	pools      Pools
	snapshots  Snapshots
	images     Images
	settings   *settings.Current
	clients    *identity.Latest
	hold       *hold.Hold
	inquire    func(ctx context.Context, id string) (*dockerd.Container, error)
	log        *slog.Logger
	containers bool
	limit      *limit.Limit
	unknown    *limit.Limit

	sets     serverSets
	removals *removals
	audits   audits
}

// New makes a Router. The goroutines that follow targets for open connections end with ctx, and Wait waits
// for that.
func New(ctx context.Context, c Config) *Router {
	return &Router{
		targets: c.Targets, pools: c.Pools, snapshots: c.Snapshots, images: c.Images, settings: c.Settings, clients: c.Clients,
		hold: c.Hold, inquire: c.Inquire, log: c.Log, containers: c.Containers, limit: c.Limit, unknown: c.Unknown,
		removals: newRemovals(ctx, c.Targets),
	}
}

// Wait returns when nothing follows targets any more, after the context of New has ended.
func (r *Router) Wait() { r.removals.watching.Wait() }

// Follow forgets what no client of table declares any more, and reports whether the targets that
// clients declare are others than before. It is called by one goroutine.
func (r *Router) Follow(table *identity.Table) (changed bool) { return r.sets.keep(table) }

// Declared lists what each client declares of the table that was followed last, in the order of
// their containers' IDs. It is called by the goroutine that calls Follow.
func (r *Router) Declared() []resolver.Owned { return r.sets.declared.byOwner() }

// Share is the part that a client has of the daemon's connections; nil where these have no
// limit. who is the key by which the client is known: the short ID of the container whose network
// namespace it is in, or an address (proxy.ClientAddr). name is what the log calls it.
func (r *Router) Share(who, name string) *limit.Share { return r.sets.share(r.limit, who, name) }

// ShareAmong lets each of table's clients be sure of a part of what is kept for those that
// have few. table is nil as long as nobody knows them.
func (r *Router) ShareAmong(table *identity.Table) {
	clients := r.clientsIn(table)
	for _, l := range []*limit.Limit{r.limit, r.unknown} {
		if l != nil {
			l.SetClients(clients)
		}
	}
	r.sets.among(clients)
}

// clientsIn is how many clients may come: those of table that declare something, or all of
// them where a listener waits for a client to dial it, and addresses.
func (r *Router) clientsIn(table *identity.Table) int {
	clients := addressesOf(r.settings.Load().Config.Listeners)
	if table == nil {
		if r.containers {
			clients = unknownClients
		}
		return max(1, clients)
	}
	anybody := clients > 0
	for _, n := range table.Namespaces() {
		if anybody || len(n.Bindings()) > 0 {
			clients++
		}
	}
	return max(1, clients)
}
