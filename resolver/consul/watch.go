package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
	"github.com/ambassadord/ambassadord/resolver/internal/failover"
)

// question is what a watch asks.
type question struct {
	agents []*agent // of whom, in order; nil for the configured ones
	what   string   // "service redis", for errors
	rule   string   // the ACL rule that reading it takes
	scope  scope
	// ask sends one request with these options and returns the answer and its index.
	ask func(*agent, *api.QueryOptions) (said, error)
	// probe asks for the index alone; nil if there is no crowd for what is asked.
	probe func(*agent, *api.QueryOptions) (*api.QueryMeta, error)
	// history asks for what is not there, of the kind of what is asked: the index of its table
	// in the servers' state. Nil if nothing waits for an index.
	history func(*agent, *api.QueryOptions) (*api.QueryMeta, error)
	kind    string
	above   bool   // that index is never less than what is waited on
	service string // the name of what a crowd asks for
	// every is how often to ask when there is neither a lane nor a crowd.
	every time.Duration
	// polled is for what knows no blocking queries.
	polled bool
}

// said is what an agent has answered.
type said struct {
	answer    resolver.Answer
	index     uint64
	instances []registration // of a service
}

// first is the first answer to a question, and whose it is.
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
func (c *Client) watch(ctx context.Context, q *question, publish func(resolver.Answer)) error {
	publish = answer.OnChange(publish)
	rate := newPace(c.config.Pace, time.Now())
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
		if !pause(ctx, rate.delay(time.Now())) {
			return nil
		}
	}
}

// begin publishes the first answer, and returns a visit to the agent that gave it; nil with the
// error, for which others are not to be asked.
func (c *Client) begin(ctx context.Context, q *question, rate *pace, publish func(resolver.Answer)) (*visit, error) {
	agents := q.agents
	if agents == nil {
		var err error
		if agents, err = c.all(); err != nil {
			return nil, err
		}
	}
	v := &visit{client: c, question: q, several: len(agents) > 1, rate: rate, publish: publish, doubts: resolver.Doubts(ctx)}
	if err := apart(q, func() error {
		got, err := c.first(ctx, agents, q)
		v.agent, v.last = got.agent, got.said
		return err
	}); err != nil {
		return nil, err
	}
	v.say()
	v.index = nextIndex(0, v.last.index)
	pause(ctx, rate.delay(time.Now()))
	return v, ctx.Err()
}

// apart calls f on a stack of its own, and makes an error of its panic: over a hostile answer,
// which nobody else would see there.
func apart(q *question, f func() error) (err error) {
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
func recovered(q *question, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("asking for %s panicked: %v\n%s", q.what, p, debug.Stack())
	}
}

// first asks agents until one answers.
func (c *Client) first(ctx context.Context, agents []*agent, q *question) (first, error) {
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

// awaitTurn waits until q, of which there is no crowd, is to be asked again: with a lane for a
// blocking query, or without one once there may be something new.
func (c *Client) awaitTurn(ctx context.Context, a *agent, q *question) (taken requestSlot, blocking bool, err error) {
	if q.polled {
		pause(ctx, jitter(q.every))
		return requestSlot{}, false, ctx.Err()
	}
	leave, ok := resolver.AllowanceOf(ctx).Wait()
	if !ok { // its client has as many connections of ours as it may
		pause(ctx, jitter(q.every))
		return requestSlot{}, false, ctx.Err()
	}
	if taken, blocking = a.lanes.takeBlocking(ctx, jitter(q.every)); blocking {
		taken.leave = leave
		return taken, true, nil
	}
	leave()
	return requestSlot{}, false, ctx.Err()
}

// askOnce asks, and waits on index unless that is 0.
func (c *Client) askOnce(ctx context.Context, a *agent, q *question, index uint64) (said, error) {
	patience := c.config.Timeout
	if index == 0 {
		release, err := a.lanes.takeShort(ctx)
		if err != nil {
			return said{}, err
		}
		defer release()
	} else {
		patience = longest(c.config.Wait) + c.config.Slack
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	options := &api.QueryOptions{WaitIndex: index, WaitTime: c.config.Wait}
	q.scope.apply(options)
	return q.ask(a, options.WithContext(ctx))
}

// probe asks for the index of what q asks.
func (a *agent) probe(ctx context.Context, q *question, timeout time.Duration) (index uint64, err error) {
	defer recovered(q, &err)
	release, err := a.lanes.takeShare(ctx, a.lanes.probes)
	if err != nil {
		return 0, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	options := &api.QueryOptions{}
	q.scope.apply(options)
	meta, err := q.probe(a, options.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, nil
}

// join makes one error of those of several agents. Its hint is the first one's.
func join(failures []error) error {
	err := failures[0]
	for _, next := range failures[1:] {
		err = fmt.Errorf("%w; %w", err, next)
	}
	return err
}

// longest is how long an agent may hold a query that is to wait so long: it adds up to
// a 16th against herds.
func longest(wait time.Duration) time.Duration { return wait + wait/16 }

// jitter keeps what began together from staying together.
func jitter(d time.Duration) time.Duration { return d - d/8 + rand.N(d/4) }

// nextIndex is the index to wait on after an answer with index got to a request
// with index waited, by the rules of Consul's "Blocking Queries": start over when
// it goes backwards (the servers were restored, or are others), and never wait on
// 0, which does not wait at all.
func nextIndex(waited, got uint64) uint64 {
	if got < waited {
		return 0
	}
	return max(got, 1)
}
