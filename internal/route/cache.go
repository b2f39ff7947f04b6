package route

import (
	"sync"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// Cache holds the routes that the connections of a proxy.Router share, by what tells them
// apart: the port in a container, the client of a listener. A route is made as it is for a single
// connection, and is valid while everything that it was made from is the same pointer. The zero
// value is ready.
type Cache[K comparable] struct {
	mu   sync.RWMutex
	from Basis
	all  map[K]*Cached
}

// Basis is what routes are made from. All of it is replaced, never changed. Router.BasisOf makes it.
type Basis struct {
	namespace *identity.Namespace // of a container's connections
	service   any                 // of a listener's: a pointer
	table     *identity.Table     // by which clients are known, or a listener's have names
	policy    *policy.Policy
	forgotten uint64 // see serverSets
}

// Made is what, beside the settings, the routes of a Cache are made from.
type Made struct {
	Namespace *identity.Namespace // of a container's connections
	Service   any                 // of a listener's: a pointer to what is replaced when it changes
	Table     *identity.Table     // by which clients are known, or a listener's have names
}

// BasisOf is from what routes are made now.
func (r *Router) BasisOf(m Made) Basis {
	return Basis{namespace: m.Namespace, service: m.Service, table: m.Table, policy: r.policy(), forgotten: r.sets.forgotten.Load()}
}

// Cached is a route to be shared. The zero value says that there is none: each connection has
// its own, or an error.
type Cached struct {
	route  *proxy.Route // without Endpoints
	set    *serverSet
	client *balance.Reporter
	scope  *policy.Scope
	limit  *limit.Limit // the client's, which listeners on one port share; nil if it has none
	bounds limit.Bounds
}

// mostCached bounds the clients of a listener that are remembered; there may be any
// number of them.
const mostCached = 1024

// Find returns the route of key if it was made from the same.
func (cache *Cache[K]) Find(from Basis, key K) *Cached {
	cache.mu.RLock()
	defer cache.mu.RUnlock()
	if cache.from != from {
		return nil
	}
	return cache.all[key]
}

// Add keeps c, and forgets all that were not made from the same.
func (cache *Cache[K]) Add(from Basis, key K, c *Cached) {
	cache.mu.Lock()
	defer cache.mu.Unlock()
	if cache.from != from || cache.all == nil || len(cache.all) >= mostCached {
		cache.from, cache.all = from, map[K]*Cached{}
	}
	cache.all[key] = c
}

// Shared makes a route to be shared of what routed says of one connection by b.
func (r *Router) Shared(b *binding.Binding, routed func() (proxy.Route, error)) *Cached {
	if b.Options.ProxyProtocol != option.ProxyOff || b.Options.SourceAddress.Client {
		return new(Cached)
	}
	route, err := routed()
	if err != nil {
		return new(Cached)
	}
	c := route.Endpoints.(*chooser)
	route.Endpoints = nil
	p := &Cached{route: &route, set: c.set, client: c.client, scope: c.scope}
	if limitsClients(&b.Options) {
		p.limit, p.bounds = route.Limits[0].Limit(), clientBounds(&b.Options)
	}
	return p
}

// Now is the route, with the Chooser of one connection; nil if there is none to be shared.
func (r *Router) Now(c *Cached) (*proxy.Route, proxy.Chooser) {
	if c.route == nil {
		return nil, nil
	}
	if c.limit != nil {
		c.limit.Set(c.bounds)
	}
	return c.route, &chooser{router: r, set: c.set, client: c.client, scope: c.scope}
}

// ForNow is For where it need not fail, by the routes of known that n's connections share.
func (r *Router) ForNow(known *Cache[uint16], n *identity.Namespace, w Flow) (*proxy.Route, proxy.Chooser) {
	return ForNowBy(r, known, r.BasisOf(Made{Namespace: n}), w.To.Port(), n, w)
}

// ForNowBy is Router.ForNow where the route for the port has another key than that in known, and
// holds for as long as from does.
func ForNowBy[K comparable](r *Router, known *Cache[K], from Basis, key K, n *identity.Namespace, w Flow) (*proxy.Route, proxy.Chooser) {
	c := known.Find(from, key)
	if c == nil {
		client, b, ok := n.Lookup(w.To.Port())
		if !ok {
			return nil, nil // not to be remembered: anybody may dial any port
		}
		if !r.imageKnown(from.policy, client.Container) {
			return nil, nil // For waits for it
		}
		c = r.Shared(&b, func() (proxy.Route, error) { return r.For(n, w) })
		known.Add(from, key, c)
	}
	return r.Now(c)
}
