package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// question is what a watch asks.
type question struct {
	agents []*agent // of whom, in order; nil for the configured ones
	what   string   // "service redis", for errors
	rule   string   // the ACL rule that reading it takes
	scope  scope
	// ask sends one request with these options and returns the answer and its index.
	ask func(*agent, *api.QueryOptions) (resolver.Answer, *api.QueryMeta, error)
	// probe asks for the index alone; nil if there is no crowd for what is asked.
	probe func(*agent, *api.QueryOptions) (*api.QueryMeta, error)
	// every is how often to ask when there is neither a lane nor a crowd.
	every time.Duration
	// polled is for what knows no blocking queries.
	polled bool
}

// watch asks, publishes what is new, and asks again with the index it got, until
// ctx ends or no agent can answer. One that fails is left for the next; an answer
// that another agent would give as well, such as a denial, ends the watch.
func (c *Client) watch(ctx context.Context, q question, publish func(resolver.Answer)) error {
	agents := q.agents
	if agents == nil {
		var err error
		if agents, err = c.all(); err != nil {
			return err
		}
	}
	var (
		changed  = answer.OnChange(publish)
		rate     = newPace(c.config.Pace, time.Now())
		failures []error // since the last answer
	)
	publish = func(a resolver.Answer) {
		failures = nil // every agent gets another chance
		changed(a)
	}
	for turn := 0; ; turn++ {
		a := agents[turn%len(agents)]
		err := c.watchAgent(ctx, a, q, rate, publish)
		if ctx.Err() != nil {
			return nil
		}
		a.home.forget()
		failures = append(failures, request{agent: a, what: q.what, rule: q.rule}.explain(err))
		if !another(err) || len(failures) == len(agents) {
			return join(failures)
		}
		c.avoid(a)
		if !pause(ctx, rate.delay(time.Now())) {
			return nil
		}
	}
}

// watchAgent is watch for one agent. Errors are the request's own.
func (c *Client) watchAgent(ctx context.Context, a *agent, q question, rate *pace, publish func(resolver.Answer)) error {
	var (
		index uint64 // to wait on
		among *member
	)
	defer func() { among.leave() }()
	for {
		var taken lane
		if index != 0 {
			var blocking bool
			var err error
			if taken, blocking, err = c.awaitTurn(ctx, a, q, &among); err != nil {
				return err
			}
			if !blocking {
				index = 0
			}
		}
		began := time.Now()
		got, meta, err := c.askOnce(ctx, a, q, index)
		if ctx.Err() != nil {
			taken.release(longest(c.config.Wait) - time.Since(began))
			return ctx.Err()
		}
		taken.release(0)
		if err != nil {
			return err
		}
		publish(got)
		index = nextIndex(index, meta.LastIndex)
		if !pause(ctx, rate.delay(time.Now())) {
			return ctx.Err()
		}
	}
}

// awaitTurn waits until q is to be asked again: with a lane for a blocking query, or
// without one once there may be something new.
func (c *Client) awaitTurn(ctx context.Context, a *agent, q question, among **member) (taken lane, blocking bool, err error) {
	switch {
	case q.polled:
		pause(ctx, jitter(q.every))
		return lane{}, false, ctx.Err()
	case q.probe == nil:
		leave, ok := resolver.AllowanceOf(ctx).Wait()
		if !ok { // its client has as many connections of ours as it may
			pause(ctx, jitter(q.every))
			return lane{}, false, ctx.Err()
		}
		if taken, blocking = a.lanes.takeBlocking(ctx, jitter(q.every)); blocking {
			taken.leave = leave
			return taken, true, nil
		}
		leave()
		return lane{}, false, ctx.Err()
	}
	if taken, blocking = a.lanes.takeBlocking(ctx, 0); blocking {
		return taken, true, nil
	}
	if *among == nil {
		*among = a.join(q.scope, c.config)
	}
	return lane{}, false, c.awaitChange(ctx, a, q, *among)
}

// awaitChange waits, as one of a crowd, until the index of what q asks is another
// than it was, or for as long as a blocking query would.
func (c *Client) awaitChange(ctx context.Context, a *agent, q question, among *member) error {
	overdue := time.NewTimer(jitter(c.config.Wait))
	defer overdue.Stop()
	for {
		meta, err := c.probeOnce(ctx, a, q)
		if err != nil {
			return err
		}
		if among.moved(meta.LastIndex) {
			return nil
		}
		select {
		case <-among.changed:
			among.lookOut()
		case <-overdue.C: // not all that matters shows in an index: a node's address, for one
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// askOnce asks, and waits on index unless that is 0.
func (c *Client) askOnce(ctx context.Context, a *agent, q question, index uint64) (resolver.Answer, *api.QueryMeta, error) {
	patience := c.config.Slack
	if index == 0 {
		release, err := a.lanes.takeShort(ctx)
		if err != nil {
			return resolver.Answer{}, nil, err
		}
		defer release()
	} else {
		patience += longest(c.config.Wait)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	options := &api.QueryOptions{WaitIndex: index, WaitTime: c.config.Wait}
	q.scope.apply(options)
	return q.ask(a, options.WithContext(ctx))
}

func (c *Client) probeOnce(ctx context.Context, a *agent, q question) (*api.QueryMeta, error) {
	release, err := a.lanes.takeShort(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, c.config.Slack)
	defer cancel()
	options := &api.QueryOptions{}
	q.scope.apply(options)
	return q.probe(a, options.WithContext(ctx))
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
