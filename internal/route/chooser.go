package route

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// chooser is the proxy.Chooser of one connection.
type chooser struct {
	router *Router
	set    *serverSet
	client *balance.Reporter // who keeps an endpoint, under the policy that does
	scope  *policy.Scope
	passed error // why an endpoint of this round was passed over

	resolution atomic.Pointer[resolver.Resolution]
	choice     balance.Choice
}

// mostInLoop is how many endpoints a target may have for its connections to be begun in a
// loop: to look through more of them takes milliseconds, in which all others would wait.
const mostInLoop = 256

// TryRefresh takes what is known of who serves the target.
func (c *chooser) TryRefresh() bool {
	last := c.set.last.Load()
	if last == nil {
		last = &answer{}
	}
	resolution, known := c.router.targets.Known(c.set.target, last.resolution)
	if !known || endpointsOf(c.set, resolution) > mostInLoop {
		return false
	}
	c.resolution.Store(resolution)
	c.choose(last, resolution)
	return true
}

// Refresh asks who serves the target now.
func (c *chooser) Refresh(ctx context.Context) error {
	last := c.set.last.Load()
	if last == nil {
		last = &answer{}
	}
	resolution, err := c.router.targets.Resolve(ctx, c.set.target, last.resolution)
	if resolution != nil {
		c.resolution.Store(resolution)
	}
	if err != nil {
		return proxy.Fail(resolveReason(err), err)
	}
	c.choose(last, resolution)
	return nil
}

// choose begins a round with what was resolved after last.
func (c *chooser) choose(last *answer, resolution *resolver.Resolution) {
	if resolution != last.resolution {
		next := &answer{resolution: resolution, given: resolution}
		if last.given != nil && slices.Equal(last.given.Endpoints, resolution.Endpoints) &&
			slices.EqualFunc(last.given.Fallbacks, resolution.Fallbacks, slices.Equal[[]resolver.Endpoint]) {
			next.given = last.given
		}
		c.set.last.Store(next)
		last = next
	}
	pool := c.set.poolIn(c.router.pools)
	if !pool.Knows(last.given) {
		pool.Update(last.given, choices(c.set, c.router.clients.Load(), last.given))
	}
	c.choice = pool.ChooseFor(c.client)
	c.scope, c.passed = c.scope.Under(c.router.policy()), nil // a reload holds at once
}

// Reresolve has the target's sources look again, since nobody of their answer has answered.
func (c *chooser) Reresolve(ctx context.Context) bool {
	return c.router.targets.Doubt(ctx, c.set.target, c.resolution.Load())
}

// Next names the endpoint to dial next.
func (c *chooser) Next() (proxy.Attempt, bool) {
	left := c.choice.Left()
	use, ok := c.choice.Next()
	for ok && (!c.holds(&use) || !c.permits(&use)) {
		left = c.choice.Left()
		use, ok = c.choice.Next()
	}
	if !ok {
		if c.passed == nil && c.choice.Drained() > 0 {
			c.passed = proxy.Fail(proxy.NoEndpoints, hint.Errorf("take that back: ambassadord endpoints restore ADDRESS", "all endpoints of it are drained by an operator"))
		}
		return proxy.Attempt{}, false
	}
	return proxy.Attempt{
		Endpoint: proxy.Endpoint{Addr: use.Addr, Name: use.Name},
		Left:     left,
		Verdict:  &attemptReport{use: use, set: c.set, began: time.Since(beginning)},
	}, true
}

// holds reports whether the address of an endpoint that was chosen is still that of the
// container whose it was. One of which that is not sure is passed over, and nothing is held
// against it: an address goes from one container to another while the engine is away, and
// in the moments until a source has heard of it.
func (c *chooser) holds(use *balance.Use) bool {
	if use.Holder == "" || c.router.snapshots == nil {
		return true
	}
	snapshot := c.router.snapshots.Snapshot()
	if snapshot == nil {
		return true // no source knows anybody without one
	}
	err := snapshot.Holds(use.Holder, use.Addr)
	if err == nil {
		return true
	}
	if proxy.ReasonOf(c.passed) != proxy.ResolveFailed { // which may be over soon, unlike a denial
		c.passed = proxy.Fail(proxy.ResolveFailed, hint.Wrap(errors.Join(err, c.router.snapshots.Err()), hint.Of(err)))
	}
	use.Cancelled()
	return false
}

// permits reports whether the client may dial an endpoint that was chosen. One that it may
// not is passed over, and nothing is held against it.
func (c *chooser) permits(use *balance.Use) bool {
	v := c.scope.Check(use.Addr, use.Published)
	switch v.Action {
	case policy.Allow:
		return true
	case policy.Audit:
		c.router.audits.note(c.router.log, c.scope, v, use.Addr)
		return true
	case policy.Deny:
	}
	if c.passed == nil {
		c.passed = proxy.Fail(proxy.Denied, c.scope.Deny(v, use.Addr.String()))
	}
	use.Cancelled()
	return false
}

// PassedOver is why the last round has passed endpoints over; nil if it has not.
func (c *chooser) PassedOver() error { return c.passed }

// Changed blocks until the target's sources say something else than at the last
// Refresh.
func (c *chooser) Changed(ctx context.Context) {
	if resolution := c.resolution.Load(); resolution != nil {
		resolution.Changed(ctx)
		return
	}
	<-ctx.Done()
}

// attemptReport tells the balancer what became of an attempt at an endpoint.
type attemptReport struct {
	use   balance.Use
	set   *serverSet
	began time.Duration // since beginning
}

// beginning is when times begin that take no more than a word.
var beginning = time.Now()

// Endpoint is the one that is tried.
func (t *attemptReport) Endpoint() proxy.Endpoint {
	return proxy.Endpoint{Addr: t.use.Addr, Name: t.use.Name}
}

// Failed passes on that the endpoint did not answer, if it had the time to, and if it was
// dialled as others dial it.
func (t *attemptReport) Failed(err error) {
	if t.set.ownWay || errors.Is(err, context.DeadlineExceeded) && time.Since(beginning)-t.began < t.set.patience {
		t.use.Cancelled()
		return
	}
	t.use.Failed(err)
}

// Cancelled passes on that it was given up.
func (t *attemptReport) Cancelled() { t.use.Cancelled() }

// Opened passes on that it answered.
func (t *attemptReport) Opened() { t.use.Opened() }

// Closed passes on how the connection ended.
func (t *attemptReport) Closed(answered, reset bool) {
	switch {
	case answered:
		t.use.Closed(balance.Answered)
	case reset && !t.set.ownWay:
		t.use.Closed(balance.Reset)
	default:
		t.use.Closed(balance.Silent)
	}
}
