package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
	"github.com/ambassadord/ambassadord/resolver/consul/sharedwatch"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
	"github.com/ambassadord/ambassadord/resolver/internal/failover"
)

// watchSpec is what a watch asks.
type watchSpec struct {
	agents []*agent // of whom, in order; nil for the configured ones
	what   string   // "service redis", for errors
	rule   string   // the ACL rule that reading it takes
	scope  scope
	// ask sends one request with these options and returns the answer and its index.
	ask func(*agent, *api.QueryOptions) (said, error)
	// probe asks for the index alone; nil if no shared watch is for what is asked.
	probe func(*agent, *api.QueryOptions) (*api.QueryMeta, error)
	// history asks for what is not there, of the kind of what is asked: the index of its table
	// in the servers' state. Nil if nothing waits for an index.
	history func(*agent, *api.QueryOptions) (*api.QueryMeta, error)
	kind    string
	above   bool   // that index is never less than what is waited on
	service string // the name that a shared watch knows it by
	// every is how often to ask when there is neither a slot nor a shared watch.
	every time.Duration
	// polled is for what knows no blocking queries.
	polled bool
}

// said is what an agent has answered.
type said struct {
	answer    resolver.Answer
	index     uint64
	instances []sharedwatch.Instance // of a service
}

// first is the first answer, and whose it is.
type first struct {
	said

	agent *agent
}

// watch asks, publishes what is new, and asks again with the index it got, until
// ctx ends or no agent can answer. One that fails, or gives no sign of life, is left for the
// next; an answer that another agent would give as well, such as a denial, ends the watch.
//
// Of thousands of watches each waits in a goroutine of its own. Here and in visit.watch the frames
// are small, and what goes deep is called apart, so that 4 KiB of stack are enough for it.
func (c *Client) watch(ctx context.Context, q *watchSpec, publish func(resolver.Answer)) error {
	publish = answer.OnChange(publish)
	rate := blocking.NewRate(c.config.MinInterval, time.Now())
	for {
		v, err := c.begin(ctx, q, rate, publish)
		if err == nil {
			err = v.watch(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case v == nil:
			return err
		}
		if err := v.end(err); err != nil {
			return err
		}
		if !blocking.Pause(ctx, rate.Delay(time.Now())) {
			return nil
		}
	}
}

// begin publishes the first answer, and returns a visit to the agent that gave it; nil with the
// error, for which others are not to be asked.
func (c *Client) begin(ctx context.Context, q *watchSpec, rate *blocking.Rate, publish func(resolver.Answer)) (*visit, error) {
	agents := q.agents
	if agents == nil {
		var err error
		if agents, err = c.all(); err != nil {
			return nil, err
		}
	}
	v := &visit{client: c, spec: q, several: len(agents) > 1, rate: rate, publish: publish, doubts: resolver.Doubts(ctx)}
	if err := apart(q, func() error {
		got, err := c.first(ctx, agents, q)
		v.agent, v.last = got.agent, got.said
		return err
	}); err != nil {
		return nil, err
	}
	v.say()
	v.index = blocking.NextIndex(0, v.last.index)
	blocking.Pause(ctx, rate.Delay(time.Now()))
	return v, ctx.Err()
}

// apart calls f on a stack of its own, and makes an error of its panic: over a hostile answer,
// which nobody else would see there.
func apart(q *watchSpec, f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer recovered(q, &err)
		err = f()
	}()
	<-done
	return err
}

// recovered makes an error of the panic that it is deferred for.
func recovered(q *watchSpec, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("asking for %s panicked: %v\n%s", q.what, p, debug.Stack())
	}
}

// first asks agents until one answers.
func (c *Client) first(ctx context.Context, agents []*agent, q *watchSpec) (first, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	asking := failover.Asking[*agent, first]{
		Ask: func(ctx context.Context, a *agent) (first, error) {
			got, err := c.askOnce(ctx, a, q, 0)
			return first{got, a}, err
		},
		Another: another,
		Slow:    failover.Slow(c.config.Timeout, len(agents)),
	}
	got, failures := asking.First(ctx, agents)
	if got == nil && c.renewed(failures) {
		got, failures = asking.First(ctx, agents)
	}
	if got == nil {
		slices.SortStableFunc(failures, func(a, b failover.Failure[*agent]) int { // an agent that has answered says more
			return cmp.Compare(silence(a.Err), silence(b.Err))
		})
		var errs []error
		for _, f := range failures {
			errs = append(errs, request{agent: f.Of, what: q.what, rule: q.rule}.explain(f.Err))
		}
		return first{}, join(errs)
	}
	for _, slow := range got.Slow {
		c.avoid(slow)
	}
	return got.Value, nil
}

// silence is 0 for the error of an agent that has answered, else 1.
func silence(err error) int {
	if _, answered := errors.AsType[api.StatusError](err); answered {
		return 0
	}
	return 1
}

// renewed notes failures, and reports whether an agent is to be asked again for one of them.
func (c *Client) renewed(failures []failover.Failure[*agent]) bool {
	again := false
	for _, f := range failures {
		again = c.failed(f.Of, f.Err) || again
	}
	return again
}

// failed notes that an agent has failed with err, and reports whether it is asked otherwise
// from now on.
func (c *Client) failed(a *agent, err error) (renewed bool) {
	a.home.forget()
	if another(err) {
		c.avoid(a)
	}
	return a.renew(err)
}

// awaitTurn waits until q, which no shared watch is for, is to be asked again: with a slot for a
// blocking query, or without one once there may be something new.
func (c *Client) awaitTurn(ctx context.Context, a *agent, q *watchSpec) (taken blocking.Slot, waits bool, err error) {
	if q.polled {
		blocking.Pause(ctx, blocking.Jitter(q.every))
		return blocking.Slot{}, false, ctx.Err()
	}
	leave, ok := resolver.AllowanceOf(ctx).Wait()
	if !ok { // its client has as many connections of ours as it may
		blocking.Pause(ctx, blocking.Jitter(q.every))
		return blocking.Slot{}, false, ctx.Err()
	}
	if taken, waits = a.slots.TakeBlocking(ctx, blocking.Jitter(q.every)); waits {
		taken.Leave = leave
		return taken, true, nil
	}
	leave()
	return blocking.Slot{}, false, ctx.Err()
}

// askOnce asks, and waits on index unless that is 0.
func (c *Client) askOnce(ctx context.Context, a *agent, q *watchSpec, index uint64) (said, error) {
	patience := c.config.Timeout
	if index == 0 {
		release, err := a.slots.TakeShort(ctx)
		if err != nil {
			return said{}, err
		}
		defer release()
	} else {
		patience = blocking.Longest(c.config.Wait) + c.config.Slack
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	options := &api.QueryOptions{WaitIndex: index, WaitTime: c.config.Wait}
	q.scope.apply(options)
	return q.ask(a, options.WithContext(ctx))
}

// join makes one error of those of several agents. Its hint is the first one's.
func join(failures []error) error {
	err := failures[0]
	for _, next := range failures[1:] {
		err = fmt.Errorf("%w; %w", err, next)
	}
	return err
}
