package route

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// removals cut connections off whose endpoint should not have any more, where the options
// on-unhealthy, on-removal and fail-back say so: for clients with pools, of which each
// connection would cost the application a timeout of its own, or that never reconnect.
type removals struct {
	ctx      context.Context // ends what follows the targets
	targets  Targets
	watching sync.WaitGroup

	mu   sync.Mutex
	used map[*serverSet]map[*drainable]struct{} // those with connections
}

// drainable is a connection whose endpoint may leave.
type drainable struct {
	removals *removals
	servers  *serverSet
	addr     netip.AddrPort
	cut      func(error)
	timers   [causes]*time.Timer // those that run
	closed   bool
}

// leaving is why an endpoint should have no connections.
type leaving int

const (
	removed    leaving = iota // the target's sources name it no longer
	failing                   // their health check fails
	unhealthy                 // ours does
	lessWanted                // a preferred choice of the target has endpoints again
	causes     = iota
)

func newRemovals(ctx context.Context, t Targets) *removals {
	return &removals{ctx: ctx, targets: t, used: map[*serverSet]map[*drainable]struct{}{}}
}

// follows reports whether connections under o depend on what the target's sources say.
func follows(o *option.Set) bool {
	return o.OnRemoval == option.Drain || o.FailBack == option.Drain || o.OnUnhealthy == option.UnhealthyClose || o.OnUnhealthy == option.UnhealthyDrain
}

// checked reports whether connections under o depend on what the endpoint's check says.
func checked(o *option.Set) bool {
	return o.Check != option.CheckNone && o.OnUnhealthy != option.UnhealthyKeep
}

// opened is a proxy.Route's Opened for connections to servers; nil where none is ever cut off.
func (r *removals) opened(servers *serverSet) func(proxy.Verdict, func(error)) func() {
	if !follows(&servers.options) && !checked(&servers.options) {
		return nil
	}
	return func(v proxy.Verdict, cut func(error)) func() {
		d := &drainable{removals: r, servers: servers, addr: v.Endpoint().Addr, cut: cut}
		unwatch := func() {}
		if t, ok := v.(*attemptReport); ok && checked(&servers.options) {
			unwatch = t.use.Watch(d)
		}
		if follows(&servers.options) {
			r.follow(d)
		}
		return func() {
			unwatch()
			r.closed(d)
		}
	}
}

// follow has d depend on what the target's sources say.
func (r *removals) follow(d *drainable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used[d.servers] == nil {
		r.used[d.servers] = map[*drainable]struct{}{}
		r.watching.Go(func() { r.watch(d.servers) })
	}
	r.used[d.servers][d] = struct{}{}
}

func (r *removals) closed(d *drainable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.closed = true
	for why := range d.timers {
		d.stay(leaving(why))
	}
	delete(r.used[d.servers], d)
}

// watch follows the endpoints of servers while connections to it live.
func (r *removals) watch(servers *serverSet) {
	for {
		resolution, err := r.targets.Resolve(r.ctx, servers.target, nil)
		if r.ctx.Err() != nil || !r.look(servers, resolution, err) {
			return
		}
		// A target that has been without connections for a while is let go of.
		ctx, cancel := context.WithTimeout(r.ctx, unchangedFor(servers, resolution))
		resolution.Changed(ctx)
		cancel()
	}
}

// unchangedFor is how long to wait for the sources of servers to say something else before looking again:
// until after the next check where that may move the chain on, which no source tells.
func unchangedFor(servers *serverSet, resolution *resolver.Resolution) time.Duration {
	if servers.balance.Check.Kind != balance.NoCheck && len(resolution.Fallbacks) > 0 {
		return min(max(servers.balance.Check.Interval, time.Second), time.Minute)
	}
	return time.Minute
}

// serving is which choice of the chain of servers is used, by its checks: 0 is that of its resolution.
func serving(servers *serverSet) int {
	if pool := servers.pool.Load(); pool != nil && !pool.Forgotten() {
		return pool.Serving()
	}
	return 0
}

// look compares the endpoints that there are with those that are used. It reports
// false when none is used any more.
func (r *removals) look(servers *serverSet, resolution *resolver.Resolution, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.used[servers]) == 0 || r.ctx.Err() != nil {
		delete(r.used, servers)
		return false
	}
	if err != nil {
		if _, nobody := errors.AsType[*resolver.NoEndpointsError](err); !nobody {
			return true // that a source fails says nothing about endpoints
		}
	}
	places := placesOf(resolution, serving(servers))
	for d := range r.used[servers] {
		d.heed(places[d.addr])
	}
	return true
}

// standing is what a target's sources say of an address.
type standing int

const (
	gone     standing = iota
	ill               // their health check fails
	fallback          // it belongs to a choice that is not used, since one before it has endpoints
	there
)

// placesOf is the standing of all that a resolution names. serving is the choice that is used:
// those before it are there, and their check says what becomes of their connections.
func placesOf(resolution *resolver.Resolution, serving int) map[netip.AddrPort]standing {
	all := map[netip.AddrPort]standing{}
	for _, addr := range resolution.Unhealthy {
		all[addr] = ill
	}
	for i, endpoints := range slices.Backward(resolution.Fallbacks) { // an earlier choice's word counts
		for _, e := range endpoints {
			if all[e.Addr] = fallback; i < serving {
				all[e.Addr] = there
			}
		}
	}
	for _, e := range resolution.Endpoints {
		all[e.Addr] = there
	}
	return all
}

// heed takes note of what the target's sources say of the endpoint. It is called with mu held.
func (d *drainable) heed(s standing) {
	o := &d.servers.options
	if s == ill && o.OnUnhealthy == option.UnhealthyAuto {
		s = gone
	}
	d.set(removed, s == gone && o.OnRemoval == option.Drain, o.DrainAfter)
	d.set(lessWanted, s == fallback && o.FailBack == option.Drain, o.DrainAfter)
	d.set(failing, s == ill && o.OnUnhealthy != option.UnhealthyKeep, d.patience())
}

// patience is how long a connection to an endpoint goes on whose check fails.
func (d *drainable) patience() time.Duration {
	if d.servers.options.OnUnhealthy == option.UnhealthyDrain {
		return d.servers.options.DrainAfter
	}
	return 0
}

// Unhealthy has the connection cut off: checks of ours fail.
func (d *drainable) Unhealthy(why string) {
	d.removals.mu.Lock()
	defer d.removals.mu.Unlock()
	d.leave(unhealthy, d.patience(), why)
}

// Healthy has it go on: checks succeed again.
func (d *drainable) Healthy() {
	d.removals.mu.Lock()
	defer d.removals.mu.Unlock()
	d.stay(unhealthy)
}

// set is leave or stay. It is called with mu held, as those are.
func (d *drainable) set(why leaving, leaves bool, after time.Duration) {
	if leaves {
		d.leave(why, after, "")
	} else {
		d.stay(why)
	}
}

// leave has the connection cut off soon.
func (d *drainable) leave(why leaving, after time.Duration, said string) {
	if d.closed || d.timers[why] != nil {
		return
	}
	d.timers[why] = time.AfterFunc(after, func() { d.cut(d.reason(why, after, said)) })
}

// reason is why the connection is cut off.
func (d *drainable) reason(why leaving, after time.Duration, said string) error {
	switch why {
	case failing:
		return proxy.Fail(proxy.EndpointUnhealthy, hint.Errorf("look at the health check of the target's registry, or set on-unhealthy=keep",
			"the registry's health check of %s fails", d.addr))
	case unhealthy:
		return proxy.Fail(proxy.EndpointUnhealthy, hint.Errorf("look why it does not answer the check, or set on-unhealthy=keep",
			"the check of %s fails: %s", d.addr, said))
	case lessWanted:
		return proxy.Fail(proxy.FailedBack, hint.Errorf("raise the option drain-after, or set fail-back=keep",
			"%s is of a later choice of the target, and one before it has had endpoints for %s", d.addr, after))
	case removed, causes:
	}
	return proxy.Fail(proxy.EndpointRemoved, hint.Errorf("raise the option drain-after, or set on-removal=keep",
		"the target has been without endpoint %s for %s", d.addr, after))
}

// stay has it go on: what was wrong with its endpoint is over, or it has ended.
func (d *drainable) stay(why leaving) {
	if d.timers[why] != nil {
		d.timers[why].Stop()
		d.timers[why] = nil
	}
}
