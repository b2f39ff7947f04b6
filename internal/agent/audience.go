package agent

import (
	"net/netip"
	"sync/atomic"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// audience is for whom work is done that clients share: checks of the endpoints of a
// target, and connections to a registry that targets name. It is done if at least one of
// them may reach what it leads to. The zero value is ready.
type audience struct{ known atomic.Pointer[declarers] }

// declarers are who declares what, at one moment.
type declarers struct {
	table  *identity.Table
	tuning *tuning

	targets    map[string]*declarations // by the target's text
	registries map[string]*declarations // by HOST:PORT
}

// declarations are the bindings that have something in common.
type declarations struct {
	each   []declaration
	scopes atomic.Pointer[[]*policy.Scope] // see scopesOf
}

// declaration is one binding, and whose it is; container is nil for a listener.
type declaration struct {
	binding   *binding.Binding
	container *dockerd.Container
}

// declarers are who declares what now. It costs a look at every binding when that is another
// table, or another configuration, than at the last call.
func (a *agent) declarers() *declarers {
	table, t := a.table.load(), a.tuning.Load()
	if d := a.audience.known.Load(); d != nil && d.table == table && d.tuning == t {
		return d
	}
	d := &declarers{table: table, tuning: t, targets: map[string]*declarations{}, registries: map[string]*declarations{}}
	if t != nil {
		for _, l := range t.cfg.Listeners {
			if b, err := bindingOf(l, t.layers, a.resolver.Parse); err == nil { // t was made of what parses
				d.add(declaration{binding: &b})
			}
		}
	}
	if table != nil {
		for _, c := range table.Clients() {
			for b := range c.Bindings.Each() {
				if b.Problem == nil {
					d.add(declaration{b, c.Container})
				}
			}
		}
	}
	a.audience.known.Store(d)
	return d
}

func (d *declarers) add(one declaration) {
	to := func(index map[string]*declarations, key string) {
		if index[key] == nil {
			index[key] = &declarations{}
		}
		index[key].each = append(index[key].each, one)
	}
	to(d.targets, one.binding.Text)
	for _, p := range targetOf(one.binding.Target).Parts {
		if p.Registry != "" {
			to(d.registries, p.Registry)
		}
	}
}

// mayCheck is balance.Config.Permit: an endpoint is checked for a target by the leave of
// somebody who declares it.
func (a *agent) mayCheck(target string) func(netip.AddrPort, bool) error {
	scopes := a.scopesOf(a.declarers().targets[target])
	return func(addr netip.AddrPort, published bool) error {
		return forAny(scopes, addr.String(), func(s *policy.Scope) policy.Verdict { return s.Check(addr, published) })
	}
}

// mayAsk says whether server, HOST:PORT as targets name it, may be asked at addr.
func (a *agent) mayAsk(server string, addr netip.AddrPort) error {
	at := server
	if server != addr.String() {
		at += " at " + addr.String()
	}
	scopes := a.scopesOf(a.declarers().registries[server])
	return forAny(scopes, at, func(s *policy.Scope) policy.Verdict { return s.Registry(server, addr) })
}

// scopesOf are what the policy says of those who declare something, each once; of any
// container where nobody does any more.
func (a *agent) scopesOf(all *declarations) []*policy.Scope {
	if all == nil {
		return []*policy.Scope{a.policy().Scope(policy.Client{}, policy.Target{})}
	}
	remember := !a.policy().AsksImages() // or what is not known yet would be kept in mind
	if scopes := all.scopes.Load(); remember && scopes != nil {
		return *scopes
	}
	var scopes []*policy.Scope
	seen := map[string]bool{}
	for _, one := range all.each {
		scope := a.scopeNow(one.binding, one.container)
		if key := scope.Key(); !seen[key] {
			seen[key] = true
			scopes = append(scopes, scope)
		}
	}
	if remember {
		all.scopes.Store(&scopes)
	}
	return scopes
}

// forAny is nil if ask allows it to one of scopes.
func forAny(scopes []*policy.Scope, at string, ask func(*policy.Scope) policy.Verdict) error {
	var refusal error
	for _, scope := range scopes {
		v := ask(scope)
		if !v.Denied() {
			return nil
		}
		if refusal == nil {
			refusal = scope.Deny(v, at)
		}
	}
	return refusal
}
