package agent

import (
	"sync"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/proxy"
)

// prompts are the routes that the connections of a Router share, by what tells them
// apart: the port in a container, the client of a listener. A route is made as it is for
// a single connection and holds while nothing has changed of what it was made from.
type prompts[K comparable] struct {
	mu   sync.RWMutex
	from basis
	all  map[K]*prompt
}

// basis is what routes are made from. All of it is replaced, never changed.
type basis struct {
	namespace *identity.Namespace // of a container's connections
	service   *fixedService       // of a listener's
	table     *identity.Table     // by which clients are known, or a listener's have names
	policy    *policy.Policy
	forgotten uint64 // see upstreams
}

// prompt is a route to be shared. The zero value says that there is none: each
// connection has its own, or an error.
type prompt struct {
	route  *proxy.Route // without Endpoints
	up     *upstream
	client *balance.Reporter
	scope  *policy.Scope
	limit  *proxy.Limit // the client's, which listeners on one port share; nil if it has none
	bounds proxy.Bounds
}

// mostPrompts bounds the clients of a listener that are remembered; there may be any
// number of them.
const mostPrompts = 1024

// find returns the prompt of key if it was made from the same.
func (ps *prompts[K]) find(from basis, key K) *prompt {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	if ps.from != from {
		return nil
	}
	return ps.all[key]
}

// add keeps p, and forgets all that were not made from the same.
func (ps *prompts[K]) add(from basis, key K, p *prompt) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.from != from || ps.all == nil || len(ps.all) >= mostPrompts {
		ps.from, ps.all = from, map[K]*prompt{}
	}
	ps.all[key] = p
}

// promptOf makes a prompt of what routed says of one connection by b.
func (a *agent) promptOf(b *binding.Binding, routed func() (proxy.Route, error)) *prompt {
	if b.Options.ProxyProtocol != option.ProxyOff || b.Options.SourceAddress.Client {
		return new(prompt)
	}
	route, err := routed()
	if err != nil {
		return new(prompt)
	}
	c := route.Endpoints.(*chooser)
	route.Endpoints = nil
	p := &prompt{route: &route, up: c.up, client: c.client, scope: c.scope}
	if limitsClients(&b.Options) {
		p.limit, p.bounds = route.Limits[0].Limit(), clientBounds(&b.Options)
	}
	return p
}

// now is p's route, with the Chooser of one connection; nil if p is none.
func (p *prompt) now(a *agent) (*proxy.Route, proxy.Chooser) {
	if p.route == nil {
		return nil, nil
	}
	if p.limit != nil {
		p.limit.Set(p.bounds)
	}
	return p.route, &chooser{agent: a, up: p.up, client: p.client, scope: p.scope}
}

// promptFor is routeFor where it need not fail, with known prompts of the namespace.
func (a *agent) promptFor(known *prompts[uint16], n *identity.Namespace, w way) (*proxy.Route, proxy.Chooser) {
	from := basis{namespace: n, policy: a.policy(), forgotten: a.upstreams.forgotten.Load()}
	return promptAt(a, known, from, w.to.Port(), n, w)
}

// promptAt is promptFor where n's prompt for the port has another key than that, and
// holds for as long as from does.
func promptAt[K comparable](a *agent, known *prompts[K], from basis, key K, n *identity.Namespace, w way) (*proxy.Route, proxy.Chooser) {
	p := known.find(from, key)
	if p == nil {
		client, b, ok := n.Lookup(w.to.Port())
		if !ok {
			return nil, nil // not to be remembered: anybody may dial any port
		}
		if !a.imageKnown(from.policy, client.Container) {
			return nil, nil // Route waits for it
		}
		p = a.promptOf(&b, func() (proxy.Route, error) { return a.routeFor(n, w) })
		known.add(from, key, p)
	}
	return p.now(a)
}
