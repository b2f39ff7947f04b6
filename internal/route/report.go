package route

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

// Known says what is known of a target without waiting: *resolver.Resolver.
type Known interface {
	StatusNow(t resolver.Target) resolver.Status
}

// Report adds the targets that r's clients and listeners declare, each with what known says of it, and
// the limits that are passed.
func Report(r *Router, s *status.Snapshot, known Known, parse func(string) (resolver.Target, error)) {
	type declared struct {
		target  resolver.Target
		clients int
	}
	targets := map[string]*declared{}
	add := func(meaning string, t resolver.Target, clients int) {
		if d := targets[meaning]; d != nil {
			d.clients += clients
			return
		}
		targets[meaning] = &declared{t, clients}
	}
	now := r.settings.Load()
	for _, l := range now.Config.Listeners {
		if b, err := settings.BindingOf(l, now.Layers, parse); err == nil { // they were made of what parses
			add(b.Meaning(), b.Target, 0)
		}
	}
	if table := r.clients.Load(); table != nil {
		for _, c := range table.Clients() {
			for b := range c.Bindings.Each() {
				if b.Problem == nil {
					add(b.Meaning(), b.Target, 1)
				}
			}
		}
	}
	s.Targets = slices.Grow(s.Targets, len(targets))
	for _, meaning := range slices.Sorted(maps.Keys(targets)) {
		d := targets[meaning]
		s.Targets = append(s.Targets, status.Target{Meaning: meaning, Clients: d.clients, Status: known.StatusNow(d.target)})
	}
	reportDenied(r, s)
	for _, l := range []*limit.Limit{r.limit, r.unknown} {
		if l != nil {
			s.Limits = append(s.Limits, l.Status())
		}
	}
	own := len(s.Limits)
	for _, l := range r.sets.allLimits() {
		s.Limits = append(s.Limits, l.Status())
	}
	slices.SortStableFunc(s.Limits[own:], func(a, b limit.Status) int { return cmp.Compare(a.What, b.What) })
}

const (
	// mostAsked is of how many endpoints of a target the policy is asked for each client, and mostDenied
	// how many denials are reported.
	mostAsked  = 64
	mostDenied = 4
)

// reportDenied adds to the bindings of s which endpoints of their targets the policy keeps from their
// clients. Where nothing is denied that takes a look at each endpoint, and no more.
func reportDenied(r *Router, s *status.Snapshot) {
	table := r.clients.Load()
	if table == nil {
		return
	}
	clients := make(map[string]*identity.Client, len(s.Containers))
	for _, c := range table.Clients() {
		clients[c.Container.ShortID()] = c
	}
	answers := make(map[string][]resolver.Endpoint, len(s.Targets))
	for i := range s.Targets {
		answers[s.Targets[i].Meaning] = s.Targets[i].Status.Endpoints
	}
	for i := range s.Containers {
		c := clients[s.Containers[i].ID]
		if c == nil {
			continue
		}
		for j := range s.Containers[i].Bindings {
			shown := &s.Containers[i].Bindings[j]
			if b, ok := c.Bindings.Lookup(shown.Port); ok && b.Problem == nil {
				shown.Denied = deniedOf(r, &b, c, answers[shown.Meaning])
			}
		}
	}
}

// deniedOf are the endpoints that the policy keeps from a client.
func deniedOf(r *Router, b *binding.Binding, c *identity.Client, endpoints []resolver.Endpoint) (denied []status.Denied) {
	if len(endpoints) == 0 {
		return nil
	}
	scope := r.scopeNow(b, c.Container)
	for _, e := range endpoints[:min(len(endpoints), mostAsked)] {
		v := scope.Check(e.Addr, e.Published)
		if v.Action != policy.Deny {
			continue
		}
		denied = append(denied, status.Denied{Endpoint: e.Addr.String(), FailureView: status.Failed(scope.Deny(v, e.Addr.String()))})
		if len(denied) == mostDenied {
			break
		}
	}
	return denied
}

// allLimits are those of targets and of clients, in no order.
func (u *serverSets) allLimits() []*limit.Limit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Values(u.limits)), maps.Values(u.clients))
}
