package resolver

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Resolution is who serves a target at one moment. It does not change.
type Resolution struct {
	// Endpoints are those that can serve the target, in the order in which the sources
	// named them. They must not be changed. There are none where Resolve fails.
	Endpoints []Endpoint
	// Fallbacks are those of the choices after the one that is used, likewise.
	Fallbacks [][]Endpoint
	// Unhealthy are the addresses of those that are left out since their health check fails,
	// by the word of their source.
	Unhealthy []netip.AddrPort

	answers []answered
	watched []<-chan struct{} // closed when an answer changes
}

// answered is what a watch said.
type answered struct {
	watch *watch
	state *state
}

// current reports whether every watch still says what it said.
func (r *Resolution) current(now time.Time) bool {
	for _, a := range r.answers {
		if a.watch.state.Load() != a.state {
			return false
		}
	}
	for _, a := range r.answers { // or it would be taken for idle
		a.watch.used.Store(now.UnixNano())
	}
	return len(r.answers) > 0
}

// Changed blocks until some source says something else than it did for r, or until
// ctx ends. A source that fails again says something else too.
func (r *Resolution) Changed(ctx context.Context) {
	waitAny(ctx, r.watched, time.Time{})
}

// Resolve returns who serves t now. It waits for a first answer, at most
// Options.Timeout or until ctx ends. An error is a *NoEndpointsError, or says which
// source could not be asked and why; the Resolution that comes with it tells when that
// changes, and is nil only if ctx ended before Run began.
//
// last is what an earlier call for t has returned, or nil: it is returned again, at no
// cost, while nothing has changed.
func (r *Resolver) Resolve(ctx context.Context, t Target, last *Resolution) (*Resolution, error) {
	now := time.Now()
	if last != nil && len(last.Endpoints) > 0 && last.current(now) {
		return last, nil
	}
	if err := r.started(ctx); err != nil {
		return nil, err
	}
	v := r.settle(ctx, t)
	next := v.resolution()
	if len(next.Endpoints) == 0 {
		return next, v.failure(t)
	}
	return next, nil
}

// Known is Resolve where that need not wait and finds somebody; false means that Resolve
// is to be called. It starts no watch.
func (r *Resolver) Known(t Target, last *Resolution) (*Resolution, bool) {
	now := time.Now()
	if last != nil && len(last.Endpoints) > 0 && last.current(now) {
		return last, true
	}
	select {
	case <-r.running:
	default:
		return nil, false
	}
	v := newView(t, now, &r.options, r.watching)
	if v.unwatched {
		return nil, false
	}
	var grace time.Time
	if final, _, _ := v.decide(now, &grace, r.options.Grace); !final || len(v.endpoints()) == 0 {
		return nil, false
	}
	return v.resolution(), true
}

// Doubt has the sources whose endpoints t has now look again, since all of these have
// refused, and waits for them, a second at most. One that fails is asked before its turn, unless
// it has failed within Options.NegativeFor. A watch is doubted once a second. It reports whether t
// has other endpoints than known by now.
func (r *Resolver) Doubt(ctx context.Context, t Target, known *Resolution) bool {
	if known == nil || r.started(ctx) != nil {
		return false
	}
	now := time.Now()
	v := newView(t, now, &r.options, r.watching)
	if v.chosen < 0 {
		return true
	}
	asked := view{options: &r.options, find: r.watching}
	asked.readChoice(t.Choices[v.chosen], now)
	ctx, cancel := context.WithTimeout(ctx, doubtFor)
	defer cancel()
	var overs []<-chan struct{}
	for _, a := range asked.answers {
		if a.state.err != nil && !a.state.standing {
			if now.Sub(a.state.failed) >= r.options.NegativeFor && !a.watch.askedAt().After(a.state.failed) {
				a.watch.askNow()
			}
			continue
		}
		if over := a.watch.doubting.doubt(now); over != nil {
			overs = append(overs, over)
		}
	}
	for _, over := range overs {
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
	v = newView(t, now, &r.options, r.watching)
	return !slices.EqualFunc(v.endpoints(), known.Endpoints, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}
