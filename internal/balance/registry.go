package balance

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// rememberFor is how long the health of an address is kept that no pool has.
	rememberFor = 10 * time.Minute
	// mostRemembered bounds how many of them there are.
	mostRemembered = 4096
	// idleAfter is when a pool counts as no longer in use: its checks stop.
	idleAfter = 5 * time.Minute
	// forgetAfter is when an idle pool is forgotten.
	forgetAfter = 15 * time.Minute
	// sweepEvery is the time between two looks for what is idle or to be forgotten.
	sweepEvery = 15 * time.Second
)

// Config is what a Registry is made of.
type Config struct {
	// Log is told of ejections, recoveries and verdicts of checks; nil is nobody.
	Log *slog.Logger
	// Dial opens connections for checks; nil is plain TCP.
	Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// Permit says why an address must not be dialled to check an endpoint of target;
	// published is the endpoint's. nil permits everything.
	Permit func(target string) func(addr netip.AddrPort, published bool) error
	// OwnFault says that a dial's error is this host's doing, or the client's, rather than
	// the endpoint's; nil says so of none but one that was cancelled.
	OwnFault func(error) bool
}

// Registry holds the pools and the health of all endpoints of a host. Make one with
// New; its methods may be called from any goroutine. Without Run it balances and
// ejects all the same, but checks nothing and forgets little.
type Registry struct {
	log   *slog.Logger
	dial  func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	ours  func(error) bool
	epoch time.Time

	permit func(target string) func(addr netip.AddrPort, published bool) error

	pools  sync.Map     // target → *family
	making sync.Mutex   // for making and forgetting pools
	beat   atomic.Int64 // the time of the last sweep: for marking what is in use, exact enough and free
	wake   chan struct{}

	deciding  sync.Mutex // for changes of overrides
	overrides atomic.Pointer[overrides]

	mu      sync.Mutex
	healths map[site]*health
	orphans int // healths that no pool has
}

// family is the pools of one target: few, mostly one.
type family struct{ pools atomic.Pointer[[]*Pool] }

// New makes a Registry.
func New(c Config) *Registry {
	r := &Registry{
		log: c.Log, dial: c.Dial, ours: c.OwnFault, permit: c.Permit, wake: make(chan struct{}, 1), healths: make(map[site]*health),
		epoch: time.Now().Add(-24 * time.Hour), // so that 0 is long ago
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.dial == nil {
		r.dial = dialTCP
	}
	if r.permit == nil {
		r.permit = func(string) func(netip.AddrPort, bool) error {
			return func(netip.AddrPort, bool) error { return nil }
		}
	}
	if r.ours == nil {
		r.ours = func(err error) bool { return errors.Is(err, context.Canceled) }
	}
	r.beat.Store(r.now())
	return r
}

// now is the time as all of this package keeps it: nanoseconds on the monotonic
// clock.
func (r *Registry) now() int64 { return int64(time.Since(r.epoch)) }

// Pool returns the pool of target and o. Ask for it anew for each connection, or whether
// it is Forgotten: one that nobody has chosen from for a while is.
func (r *Registry) Pool(target string, o Options) *Pool {
	if p := r.find(target, &o); p != nil {
		p.touch()
		return p
	}
	r.making.Lock()
	defer r.making.Unlock()
	if p := r.find(target, &o); p != nil {
		return p
	}
	found, _ := r.pools.LoadOrStore(target, new(family))
	f := found.(*family)
	p := newPool(r, target, o)
	pools := append(slices.Clone(f.all()), p)
	f.pools.Store(&pools)
	return p
}

// find returns the pool of target and o, nil if there is none.
func (r *Registry) find(target string, o *Options) *Pool {
	f, ok := r.pools.Load(target)
	if !ok {
		return nil
	}
	for _, p := range f.(*family).all() {
		if p.options == *o {
			return p
		}
	}
	return nil
}

// all is not to be changed.
func (f *family) all() []*Pool {
	if pools := f.pools.Load(); pools != nil {
		return *pools
	}
	return nil
}

// Run runs the active checks and forgets what is no longer used, until ctx ends;
// then it waits for all it has started.
func (r *Registry) Run(ctx context.Context) error {
	checks := newChecks(r)
	defer checks.stop()
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		r.beat.Store(r.now())
		checks.follow(ctx)
		if !pause(ctx, wakePause) { // many pools that change at once are looked at once
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-ticker.C:
			r.sweep()
		}
	}
}

// wakeUp makes Run look at once at which checks are to run.
func (r *Registry) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// each calls do with every pool.
func (r *Registry) each(do func(*Pool)) {
	r.pools.Range(func(_, value any) bool {
		for _, p := range value.(*family).all() {
			do(p)
		}
		return true
	})
}

// sweep forgets pools that are not used, and the health of addresses that left
// long ago.
func (r *Registry) sweep() {
	now := r.now()
	r.forgetPools(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	for addr, h := range r.healths {
		h.dropChecks()
		if h.refs == 0 && (now-h.left >= int64(rememberFor) && h.load.Load() == 0 || !h.memorable(now)) {
			delete(r.healths, addr)
			r.orphans--
		}
	}
}

// forgetPools forgets those that nobody has chosen from for a while.
func (r *Registry) forgetPools(now int64) {
	r.making.Lock()
	defer r.making.Unlock()
	r.pools.Range(func(target, value any) bool {
		f := value.(*family)
		var kept []*Pool
		for _, p := range f.all() {
			if p.watched.Load() > 0 || now-p.used.Load() < int64(forgetAfter) {
				kept = append(kept, p)
			} else {
				p.close()
			}
		}
		switch {
		case len(kept) == 0:
			r.pools.Delete(target)
		case len(kept) < len(f.all()):
			f.pools.Store(&kept)
		}
		return true
	})
}

// acquire returns the health of the endpoint at that site for p, until release.
func (r *Registry) acquire(at site, p *Pool) *health {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.healths[at]
	if h == nil {
		h = &health{site: at, pools: make(map[*Pool]struct{}, 1)}
		r.healths[at] = h
	} else if h.refs == 0 {
		r.orphans--
	}
	h.refs++
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools[p] = struct{}{}
	return h
}

// release says that p no longer has h.
func (r *Registry) release(h *health, p *Pool) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	h.mu.Lock()
	delete(h.pools, p)
	h.mu.Unlock()
	if h.refs--; h.refs > 0 {
		return
	}
	h.left = now
	// With live connections it is kept in any case: they are bounded elsewhere.
	if !h.memorable(now) || r.orphans >= mostRemembered && h.load.Load() == 0 {
		delete(r.healths, h.site)
		return
	}
	r.orphans++
}
