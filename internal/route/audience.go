package route

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/resolver"
)

// Audience is for whom work is done that clients share: checks of the endpoints of a
// target, and connections to a registry that targets name. Such work is done if at least one of
// the clients may reach what it leads to.
//
// It is asked at every check and every such connection, and containers come and go: so what
// a client declares is indexed once, and after an event only what has changed.
type Audience struct {
	router *Router
	parse  func(string) (resolver.Target, error)

	known atomic.Pointer[declarers]
	mu    sync.Mutex // held while the next is made
}

// NewAudience is that of r's clients; parse reads the targets of listeners.
func NewAudience(r *Router, parse func(string) (resolver.Target, error)) *Audience {
	return &Audience{router: r, parse: parse}
}

// declarers are who declares what, at one moment.
type declarers struct {
	table    *identity.Table
	settings *settings.Settings

	listeners index
	clients   map[string]indexed // by container ID
	order     []*identity.Client

	mu    sync.Mutex
	found map[common]*declarations // what was asked for
}

// common is what bindings have in common.
type common struct {
	registry bool   // it is a registry, HOST:PORT; else what a target means (binding.Binding.Meaning)
	text     string //
}

// index finds the bindings of one client by what they have in common with others'.
type index map[common][]*binding.Binding

type indexed struct {
	bindings binding.Set
	index    index
}

// declarations are the bindings that have something in common.
type declarations struct {
	each   []declaration
	scopes atomic.Pointer[[]*policy.Scope] // see forAny
}

// declaration is one binding, and whose it is; container is nil for a listener.
type declaration struct {
	binding   *binding.Binding
	container *dockerd.Container
}

// declarers are who declares what now. It costs a look at each client when that is another
// table, or another configuration, than at the last call, and at the bindings of those alone
// that have changed.
func (a *Audience) declarers() *declarers {
	now := func() *declarers {
		if d := a.known.Load(); d != nil && d.table == a.router.clients.Load() && d.settings == a.router.settings.Load() {
			return d
		}
		return nil
	}
	if d := now(); d != nil {
		return d
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := now(); d != nil { // somebody else was at it
		return d
	}
	old := a.known.Load()
	d := &declarers{
		table: a.router.clients.Load(), settings: a.router.settings.Load(), listeners: index{}, clients: map[string]indexed{}, found: map[common]*declarations{},
	}
	for _, l := range d.settings.Config.Listeners {
		if b, err := settings.BindingOf(l, d.settings.Layers, a.parse); err == nil { // they were made of what parses
			d.listeners.add(&b)
		}
	}
	if d.table != nil {
		d.order = d.table.Clients()
	}
	for _, c := range d.order {
		id := c.Container.ID
		if old != nil && old.clients[id].bindings.Same(c.Bindings) {
			d.clients[id] = old.clients[id]
			continue
		}
		of := indexed{c.Bindings, index{}}
		for b := range c.Bindings.Each() {
			if b.Problem == nil {
				of.index.add(b)
			}
		}
		d.clients[id] = of
	}
	a.known.Store(d)
	return d
}

func (i index) add(b *binding.Binding) {
	target := common{text: b.Meaning()}
	i[target] = append(i[target], b)
	for _, p := range settings.TargetOf(b.Target).Parts {
		if p.Registry != "" {
			server := common{registry: true, text: p.Registry}
			i[server] = append(i[server], b)
		}
	}
}

// of are those who have what in common; nil if nobody has.
func (d *declarers) of(what common) *declarations {
	d.mu.Lock()
	defer d.mu.Unlock()
	if all, ok := d.found[what]; ok {
		return all
	}
	all := &declarations{}
	for _, b := range d.listeners[what] {
		all.each = append(all.each, declaration{binding: b})
	}
	for _, c := range d.order {
		for _, b := range d.clients[c.Container.ID].index[what] {
			all.each = append(all.each, declaration{b, c.Container})
		}
	}
	if len(all.each) == 0 {
		all = nil
	}
	d.found[what] = all
	return all
}

// MayCheck is balance.Config.Permit: an endpoint is checked for a target by the leave of
// somebody who declares it.
func (a *Audience) MayCheck(target string) func(netip.AddrPort, bool) error {
	all := a.declarers().of(common{text: target})
	return func(addr netip.AddrPort, published bool) error {
		return a.forAny(all, addr.String(), func(s *policy.Scope) policy.Verdict { return s.Check(addr, published) })
	}
}

// MayAsk says whether server, HOST:PORT as targets name it, may be asked at addr.
func (a *Audience) MayAsk(server string, addr netip.AddrPort) error {
	at := server
	if server != addr.String() {
		at += " at " + addr.String()
	}
	all := a.declarers().of(common{registry: true, text: server})
	return a.forAny(all, at, func(s *policy.Scope) policy.Verdict { return s.Registry(server, addr) })
}

// forAny is nil if ask allows it to one of those who declare something; to any container
// where nobody does any more. The verdict on each is remembered once all were asked.
func (a *Audience) forAny(all *declarations, at string, ask func(*policy.Scope) policy.Verdict) error {
	var refusal error
	refuses := func(scope *policy.Scope) bool {
		v := ask(scope)
		if !v.Denied() {
			return false
		}
		if refusal == nil {
			refusal = scope.Deny(v, at)
		}
		return true
	}
	if all == nil {
		if refuses(a.router.policy().Scope(policy.Client{}, policy.Target{})) {
			return refusal
		}
		return nil
	}
	remember := !a.router.policy().AsksImages() // or what is not known yet would be kept in mind
	if scopes := all.scopes.Load(); remember && scopes != nil {
		for _, scope := range *scopes {
			if !refuses(scope) {
				return nil
			}
		}
		return refusal
	}
	var scopes []*policy.Scope
	seen := map[string]bool{}
	for i, one := range all.each {
		if remember && i > 0 && one.sameClient(all.each[i-1]) {
			continue
		}
		scope := a.router.scopeNow(one.binding, one.container)
		if key := scope.Key(); !seen[key] {
			seen[key] = true
			scopes = append(scopes, scope)
			if !refuses(scope) {
				return nil
			}
		}
	}
	if remember {
		all.scopes.Store(&scopes)
	}
	return refusal
}

// sameClient reports whether other is of the same client, and declared in the same place:
// only rules about images could tell them apart, and what else their targets lead to.
func (one declaration) sameClient(other declaration) bool {
	return one.container != nil && one.container == other.container && one.binding.Place == other.binding.Place && one.binding.Meaning() == other.binding.Meaning()
}
