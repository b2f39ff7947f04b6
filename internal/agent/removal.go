package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// removals cut connections off some time after their endpoint has left the target, where
// the option on-removal says so: for clients with pools that never reconnect.
type removals struct {
	ctx      context.Context // ends what follows the targets
	resolver *resolver.Resolver
	watching sync.WaitGroup

	mu      sync.Mutex
	targets map[*upstream]map[*departure]struct{} // those with connections
}

// departure is a connection whose endpoint may leave.
type departure struct {
	endpoint proxy.Endpoint
	after    time.Duration
	cut      func(error)
	timer    *time.Timer // runs while the endpoint is away
}

func newRemovals(ctx context.Context, r *resolver.Resolver) *removals {
	return &removals{ctx: ctx, resolver: r, targets: map[*upstream]map[*departure]struct{}{}}
}

// opened is a proxy.Route's Opened for connections to up.
func (r *removals) opened(up *upstream) func(proxy.Endpoint, func(error)) func() {
	return func(e proxy.Endpoint, cut func(error)) func() {
		d := &departure{endpoint: e, after: up.options.DrainAfter, cut: cut}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.targets[up] == nil {
			r.targets[up] = map[*departure]struct{}{}
			r.watching.Go(func() { r.watch(up) })
		}
		r.targets[up][d] = struct{}{}
		return func() { r.closed(up, d) }
	}
}

func (r *removals) closed(up *upstream, d *departure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.stay()
	delete(r.targets[up], d)
}

// watch follows the endpoints of up while connections to it live.
func (r *removals) watch(up *upstream) {
	for {
		resolution, err := r.resolver.Resolve(r.ctx, up.target, nil)
		if r.ctx.Err() != nil || !r.look(up, resolution, err) {
			return
		}
		// What has been without connections for a while is let go of.
		ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
		resolution.Changed(ctx)
		cancel()
	}
}

// look compares the endpoints that there are with those that are used. It reports
// false when none is used any more.
func (r *removals) look(up *upstream, resolution *resolver.Resolution, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.targets[up]) == 0 || r.ctx.Err() != nil {
		delete(r.targets, up)
		return false
	}
	if err != nil {
		if _, nobody := errors.AsType[*noEndpoints](err); !nobody {
			return true // that a source fails says nothing about endpoints
		}
	}
	there := map[netip.AddrPort]bool{}
	for _, e := range resolution.Endpoints {
		there[e.Addr] = true
	}
	for d := range r.targets[up] {
		if there[d.endpoint.Addr] {
			d.stay()
		} else {
			d.leave()
		}
	}
	return true
}

// leave has the connection cut off soon. It is called with mu held, as is stay.
func (d *departure) leave() {
	if d.timer != nil {
		return
	}
	d.timer = time.AfterFunc(d.after, func() {
		d.cut(proxy.Fail(proxy.EndpointRemoved, hint.Errorf("raise the option drain-after, or set on-removal=keep",
			"the target has been without endpoint %s for %s", d.endpoint.Addr, d.after)))
	})
}

// stay has it go on: its endpoint is back, or it has ended.
func (d *departure) stay() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
