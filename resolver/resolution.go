package resolver

import (
	"context"
	"net/netip"
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
	v := r.view(t, now, r.watching)
	if v.unwatched {
		return nil, false
	}
	var grace time.Time
	if final, _, _ := v.decide(now, &grace, r.options.Grace); !final || len(v.endpoints()) == 0 {
		return nil, false
	}
	return v.resolution(), true
}
