package balance

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// mostChecking bounds how many checks are under way at a time.
const mostChecking = 64

// wakePause is the least time between two looks at which checks are to run.
const wakePause = 50 * time.Millisecond

// The verdicts of a checker.
const (
	unchecked int32 = iota
	up
	down
)

// checker is one check of one address, for every pool that has both. Its verdict
// stays when it stops for want of use; when it runs again its first result counts
// at once.
type checker struct {
	health *health
	check  Check

	subject atomic.Pointer[subject] // for whom it runs
	refused atomic.Bool             // it was said that it must not run
	unable  atomic.Bool             // it was said that it cannot be made, by this host's fault

	verdict atomic.Int32
	risen   atomic.Int64 // when it last changed to up; 0 never

	mu     sync.Mutex
	streak int    // results in a row that contradict the verdict
	why    string // of the last result, "" for a good one
	last   int64  // when that was
	since  int64  // when the verdict changed last
	bad    int    // bad results in a row
	dead   bool   // there were Fall of them, and it has not risen since
	cause  string // the why of the last of them

	// watchers are those that are told of it, and of how many deaths each knows.
	watchers map[Watcher]uint32

	deaths  atomic.Uint32 // how often it was found dead
	telling sync.Mutex    // while watchers are told; taken before mu
}

// subject is a member of a pool, as far as its check needs it.
type subject struct {
	name, target string
	published    bool
}

func (c *checker) down() bool { return c.verdict.Load() == down }

// checker returns the checker of h for check.
func (h *health) checker(check Check) *checker {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.checks[check]
	if c == nil {
		c = &checker{health: h, check: check}
		if h.checks == nil {
			h.checks = make(map[Check]*checker)
		}
		h.checks[check] = c
	}
	return c
}

// dropChecks forgets the checkers that no pool has.
func (h *health) dropChecks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for check := range h.checks {
		wanted := false
		for p := range h.pools {
			wanted = wanted || p.options.Check == check
		}
		if !wanted {
			delete(h.checks, check)
		}
	}
}

// note takes note of a result; first is the first since the checker began to run. It
// says whether the verdict is another now, for how long the last one stood, and what that
// means for connections.
func (c *checker) note(now int64, why string, first bool) (changed bool, stood time.Duration, change verdictChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, stood = c.judged(now, why, first)
	if change = c.count(why != "", first); change == died {
		c.cause = why
	}
	return changed, stood, change
}

// judged is what note says of the verdict. It is called with mu held.
func (c *checker) judged(now int64, why string, first bool) (changed bool, stood time.Duration) {
	c.why, c.last = why, now
	result, needed := up, c.check.Rise
	if why != "" {
		result, needed = down, c.check.Fall
	}
	if needed <= 0 {
		needed = defaultRise
		if result == down {
			needed = defaultFall
		}
	}
	was := c.verdict.Load()
	if was == result {
		c.streak = 0
		return false, 0
	}
	if c.streak++; !first && c.streak < needed {
		return false, 0
	}
	stood = time.Duration(now - c.since)
	c.streak, c.since = 0, now
	if was == down {
		c.risen.Store(now)
	}
	c.verdict.Store(result)
	return was != unchecked || result == down, stood
}

// checks runs the checkers that are wanted.
type checks struct {
	registry *Registry
	running  map[*checker]context.CancelFunc
	turns    chan struct{}
	pace     *checkPace
	wg       sync.WaitGroup
}

func newChecks(r *Registry) *checks {
	return &checks{registry: r, running: make(map[*checker]context.CancelFunc), turns: make(chan struct{}, mostChecking), pace: newPace()}
}

// follow starts and stops checkers so that those of the pools in use run.
func (c *checks) follow(ctx context.Context) {
	wanted, refusals := make(map[*checker]subject), make(map[*checker]error)
	c.registry.each(func(p *Pool) {
		if p.options.Check.Kind == NoCheck || !p.inUse() {
			return
		}
		members := p.snapshot.Load().membership.members
		permit := c.registry.permit(p.target)
		for i := range members {
			m := &members[i]
			if m.check == nil {
				continue
			}
			of := subject{m.Name, p.target, m.Published}
			if err := m.check.permitted(&of, permit); err != nil {
				refusals[m.check] = err
				continue
			}
			wanted[m.check] = of
			m.check.subject.Store(&of)
		}
	})
	for k, err := range refusals {
		if _, ok := wanted[k]; !ok && !k.refused.Swap(true) {
			c.registry.log.Warn("an endpoint is not checked", "endpoint", k.health.addr.String(), "check", string(k.check.Kind), "error", err, hint.Attr(err))
		}
	}
	for k, stop := range c.running {
		if _, ok := wanted[k]; !ok {
			stop()
			delete(c.running, k)
		}
	}
	for k := range wanted {
		if _, ok := c.running[k]; ok {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		c.running[k] = stop
		c.wg.Go(func() { c.run(ctx, k) })
	}
}

// permitted says why the check must not be made for of. A port of the
// address other than the endpoint's own counts as not published.
func (c *checker) permitted(of *subject, permit func(netip.AddrPort, bool) error) error {
	addr := c.check.address(c.health.addr)
	return permit(addr, of.published && addr == c.health.addr)
}

// stop ends them all and waits for them.
func (c *checks) stop() {
	for _, stop := range c.running {
		stop()
	}
	c.wg.Wait()
}

// run checks until ctx ends.
func (c *checks) run(ctx context.Context, k *checker) {
	interval := k.check.Interval
	if interval <= 0 {
		interval = defaultCheckInterval
	}
	addr := k.check.address(k.health.addr)
	limiter, leave := c.pace.join(addr)
	defer leave()
	for first := true; ; {
		if !c.pace.wait(ctx, limiter) {
			return
		}
		select {
		case c.turns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		of := k.subject.Load()
		err := k.permitted(of, c.registry.permit(of.target)) // a reload may have changed that
		permitted := err == nil
		if permitted {
			err = k.check.do(ctx, addr, c.registry.dial)
		}
		<-c.turns
		if ctx.Err() != nil {
			return
		}
		if permitted && (err == nil || !c.registry.ours(err)) { // what is our own fault is no result
			c.judge(k, err, first, of.name, of.target)
			first = false
			k.unable.Store(false)
		} else if permitted && !k.unable.Swap(true) {
			c.registry.log.Warn("an endpoint cannot be checked, by this host's fault", "endpoint", k.health.addr.String(), "name", of.name,
				"target", of.target, "check", string(k.check.Kind), "error", err, hint.Attr(err))
		}
		if !pause(ctx, jittered(interval, k.check.Jitter)-time.Since(began)) {
			return
		}
	}
}

// judge takes note of a result, and tells the pools and the log when it changes the
// verdict.
func (c *checks) judge(k *checker, err error, first bool, name, target string) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	changed, stood, change := k.note(c.registry.now(), why, first)
	defer k.tell(change, why)
	if !changed {
		return
	}
	k.health.mu.Lock()
	k.health.changed()
	k.health.mu.Unlock()
	attributes := []any{"endpoint", k.health.addr.String(), "name", name, "target", target, "check", string(k.check.Kind)}
	if k.down() {
		c.registry.log.Warn("check fails; the endpoint is out", append(attributes, "why", why, hint.Attr(err))...)
	} else {
		c.registry.log.Info("check succeeds; the endpoint is back", append(attributes, "after", stood.String())...)
	}
}

// jittered is d, up to so many percent longer or shorter.
func jittered(d time.Duration, percent int) time.Duration {
	percent = min(max(percent, 0), 100)
	return d + time.Duration(float64(d)*float64(percent)/100*(2*rand.Float64()-1))
}

// pause waits for d, and says whether ctx is still going on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(d, time.Millisecond))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
