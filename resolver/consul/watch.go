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
	ask func(*agent, *api.QueryOptions) (resolver.Answer, *api.QueryMeta, error)
	// probe asks for the index alone; nil if there is no crowd for what is asked.
	probe func(*agent, *api.QueryOptions) (*api.QueryMeta, error)
	// history asks for what is not there, of the kind of what is asked: the index of its table
	// in the servers' state. Nil if nothing waits for an index.
	history func(*agent, *api.QueryOptions) (*api.QueryMeta, error)
	kind    string
	above   bool // that index is never less than what is waited on
	// service is the name, and instances are those of the last answer, of what a crowd asks for.
	service   string
	instances func() []registration
	// every is how often to ask when there is neither a lane nor a crowd.
	every time.Duration
	// polled is for what knows no blocking queries.
	polled bool
}

// first is the first answer to a question, and whose it is.
type first struct {
	agent  *agent
	answer resolver.Answer
	index  uint64
}

// watch asks, publishes what is new, and asks again with the index it got, until
// ctx ends or no agent can answer. One that fails, or gives no sign of life, is left for the
// next; an answer that another agent would give as well, such as a denial, ends the watch.
func (c *Client) watch(ctx context.Context, q question, publish func(resolver.Answer)) error {
	publish = answer.OnChange(publish)
	rate := newPace(c.config.Pace, time.Now())
	for {
		agents := q.agents
		if agents == nil {
			var err error
			if agents, err = c.all(); err != nil {
				return err
			}
		}
		got, err := c.first(ctx, agents, q)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		publish(got.answer)
		if !pause(ctx, rate.delay(time.Now())) {
			return nil
		}
		v := &visit{
			client: c, agent: got.agent, question: q, several: len(agents) > 1, index: nextIndex(0, got.index), rate: rate, publish: publish,
			doubts: resolver.Doubts(ctx),
		}
		err = v.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.failed(got.agent, err)
		if !v.several || !another(err) {
			return request{agent: got.agent, what: q.what, rule: q.rule}.explain(err)
		}
		if !pause(ctx, rate.delay(time.Now())) {
			return nil
		}
	}
}

// first asks agents until one answers.
func (c *Client) first(ctx context.Context, agents []*agent, q question) (first, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	asking := failover.Asking[*agent, first]{
		Ask: func(ctx context.Context, a *agent) (first, error) {
			got, meta, err := c.askOnce(ctx, a, q, 0)
			if err != nil {
				return first{}, err
			}
			return first{agent: a, answer: got, index: meta.LastIndex}, nil
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

// visit is the watch of a question at one agent, which has answered it once.
type visit struct {
	client   *Client
	agent    *agent
	question question
	several  bool // there are others to turn to
	rate     *pace
	publish  func(resolver.Answer)
	doubts   <-chan resolver.Doubt

	index  uint64 // to wait on; 0 asks without waiting
	silent bool   // it has been published that the agent is
}

// watch asks again and again. Errors are the request's own.
func (v *visit) watch(ctx context.Context) error {
	var among *member
	defer func() { among.leave() }()
	c, a, q := v.client, v.agent, v.question
	beat := a.pulse.join(a, q, c.config)
	defer beat.leave()
	v.note(beat)
	for {
		var (
			taken lane
			got   resolver.Answer
			meta  *api.QueryMeta
			began time.Time
		)
		waited := v.index
		gaveUp, err := v.attend(ctx, beat, func(ctx context.Context) (err error) {
			if waited != 0 {
				var blocking bool
				if taken, blocking, err = c.awaitTurn(ctx, a, q, &among); err != nil {
					return err
				}
				if !blocking {
					waited = 0
				}
			}
			began = time.Now()
			got, meta, err = c.askOnce(ctx, a, q, waited)
			return err
		})
		if !began.IsZero() && (gaveUp || ctx.Err() != nil) {
			taken.release(longest(c.config.Wait) - time.Since(began)) // the agent does not notice
		} else {
			taken.release(0)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errBackwards):
			v.index = 0
		case err != nil:
			return err
		default:
			v.say(got)
			v.index = nextIndex(waited, meta.LastIndex)
			v.note(beat)
		}
		if !pause(ctx, v.rate.delay(time.Now())) {
			return ctx.Err()
		}
	}
}

// note has the history know what is waited on.
func (v *visit) note(beat *beat) {
	if v.question.above {
		beat.note(v.index)
	}
}

// say publishes an answer.
func (v *visit) say(got resolver.Answer) {
	v.silent = false
	v.publish(got)
}

var (
	errSilent    = errors.New("no sign of life in time")
	errBackwards = errors.New("the index has gone backwards")

	errNoTransaction = errors.New("a transaction that tells nothing")
)

// attend calls wait, and meanwhile follows the agent's pulse and whether the answer is
// doubted. It reports whether it has given wait up.
func (v *visit) attend(ctx context.Context, beat *beat, wait func(context.Context) error) (gaveUp bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var waited error
	done := make(chan struct{}) // closed when that is set
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil { // over a hostile answer; nobody else sees it here
				waited = fmt.Errorf("asking for %s panicked: %v\n%s", v.question.what, p, debug.Stack())
			}
		}()
		waited = wait(ctx)
	}()
	for {
		var err error
		select {
		case <-done:
			return false, waited
		case <-beat.changed:
			err = v.feel(ctx, beat)
		case <-beat.restored:
			beat.nextHistory()
			err = v.again(ctx)
		case doubt := <-v.doubts:
			err = v.again(ctx)
			doubt.Over()
		}
		if err != nil {
			cancel()
			<-done
			return true, err
		}
	}
}

// feel follows a change of the agent's pulse. A single agent that is silent is not given up:
// when it goes on, so does the question that it has been asked.
func (v *visit) feel(ctx context.Context, beat *beat) error {
	switch silent := beat.next(); {
	case silent && v.several:
		return errSilent
	case silent:
		if !v.silent {
			v.silent = true
			v.publish(resolver.Answer{Err: request{agent: v.agent, what: v.question.what, rule: v.question.rule}.explain(errSilent)})
		}
		return nil
	}
	return v.again(ctx)
}

// again asks without waiting, whatever is waited for.
func (v *visit) again(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.client.config.Timeout)
	defer cancel()
	got, meta, err := v.client.askOnce(ctx, v.agent, v.question, 0)
	if err != nil {
		return err
	}
	v.say(got)
	if meta.LastIndex < v.index { // of servers that do not know what is waited for
		return errBackwards
	}
	return nil
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
		*among = a.join(q, c.config)
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
		case <-among.told:
			return nil
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
	patience := c.config.Timeout
	if index == 0 {
		release, err := a.lanes.takeShort(ctx)
		if err != nil {
			return resolver.Answer{}, nil, err
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

func (c *Client) probeOnce(ctx context.Context, a *agent, q question) (*api.QueryMeta, error) {
	release, err := a.lanes.takeProbe(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
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
