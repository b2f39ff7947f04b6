package route

import (
	"cmp"
	"maps"
	"slices"

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

// allLimits are those of targets and of clients, in no order.
func (u *serverSets) allLimits() []*limit.Limit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Values(u.limits)), maps.Values(u.clients))
}
