package consul

import (
	"context"
	"errors"
	"time"

	"github.com/ambassadord/ambassadord/resolver"
)

// visit is the watch of a question at one agent, which has answered it once.
type visit struct {
	client   *Client
	agent    *agent
	question *question
	several  bool // there are others to turn to
	rate     *pace
	publish  func(resolver.Answer)
	doubts   <-chan resolver.Doubt
	beat     *beat
	among    *member // nil while it is no member of a crowd

	last   said
	index  uint64 // to wait on; 0 asks without waiting
	silent bool   // it has been published that the agent is
}

// watch asks again and again. Errors are the request's own.
func (v *visit) watch(ctx context.Context) error {
	defer func() { v.among.leave() }()
	v.beat = v.agent.pulse.join(v.agent, v.question, v.client.config)
	defer v.beat.leave()
	v.note()
	for {
		err := v.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errBackwards):
			v.index = 0
		case err != nil:
			return err
		}
		if !pause(ctx, v.rate.delay(time.Now())) {
			return ctx.Err()
		}
	}
}

// round waits until there may be something new, and asks.
func (v *visit) round(ctx context.Context) error {
	if v.question.probe == nil || v.index == 0 {
		return v.ask(ctx, requestSlot{}, v.index)
	}
	if taken, ok := v.agent.lanes.takeBlocking(ctx, 0); ok {
		return v.ask(ctx, taken, v.index)
	}
	if err := v.awaitNews(ctx); err != nil {
		return err
	}
	return v.ask(ctx, requestSlot{}, 0)
}

// awaitNews waits, as one of a crowd, until it may be that the answer is another, or for as long
// as a blocking query would.
func (v *visit) awaitNews(ctx context.Context) error {
	if v.among == nil {
		v.among = v.agent.join(v.question, v.client.config)
	}
	v.among.answered(v.last.index, v.last.instances)
	v.last.instances = nil // the crowd has them
	overdue := time.NewTimer(jitter(v.client.config.Wait))
	defer overdue.Stop()
	for {
		var err error
		select {
		case err := <-v.among.news:
			return err
		case <-overdue.C: // not all that matters shows in an index: a node's address, for one
			return nil
		case <-v.beat.changed:
			err = v.felt(ctx)
		case <-v.beat.restored:
			err = v.restored(ctx)
		case doubt := <-v.doubts:
			err = v.doubted(ctx, doubt)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// ask asks, in a lane for a query that waits on the index waited unless that is 0, and publishes
// the answer. What is asked by no crowd waits for its lane first.
func (v *visit) ask(ctx context.Context, taken requestSlot, waited uint64) error {
	var (
		got   said
		began time.Time
	)
	c, a, q := v.client, v.agent, v.question
	gaveUp, err := v.attend(ctx, func(ctx context.Context) (err error) {
		if waited != 0 && q.probe == nil {
			var blocking bool
			if taken, blocking, err = c.awaitTurn(ctx, a, q); err != nil {
				return err
			}
			if !blocking {
				waited = 0
			}
		}
		began = time.Now()
		got, err = c.askOnce(ctx, a, q, waited)
		return err
	})
	if !began.IsZero() && (gaveUp || ctx.Err() != nil) {
		taken.release(longest(c.config.Wait) - time.Since(began)) // the agent does not notice
	} else {
		taken.release(0)
	}
	if err != nil {
		return err
	}
	v.last = got
	v.say()
	v.index = nextIndex(waited, got.index)
	v.note()
	return nil
}

// note has the history know what is waited on.
func (v *visit) note() {
	if v.question.above {
		v.beat.note(v.index)
	}
}

// say publishes the last answer, which is no longer needed then.
func (v *visit) say() {
	v.silent = false
	v.publish(v.last.answer)
	v.last.answer = resolver.Answer{}
}

var (
	errSilent    = errors.New("no sign of life in time")
	errBackwards = errors.New("the index has gone backwards")

	errNoTransaction = errors.New("a transaction that tells nothing")
)

// attend calls wait, and meanwhile follows the agent's pulse and whether the answer is
// doubted. It reports whether it has given wait up.
func (v *visit) attend(ctx context.Context, wait func(context.Context) error) (gaveUp bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var waited error
	done := make(chan struct{}) // closed when that is set
	go func() {
		defer close(done)
		defer recovered(v.question, &waited)
		waited = wait(ctx)
	}()
	for {
		var err error
		select {
		case <-done:
			return false, waited
		case <-v.beat.changed:
			err = v.felt(ctx)
		case <-v.beat.restored:
			err = v.restored(ctx)
		case doubt := <-v.doubts:
			err = v.doubted(ctx, doubt)
		}
		if err != nil {
			cancel()
			<-done
			return true, err
		}
	}
}

// felt is feel where the goroutine of the watch has little stack, as restored and doubted are again.
func (v *visit) felt(ctx context.Context) error {
	return apart(v.question, func() error { return v.feel(ctx) })
}

// restored asks again since the agent's history is another.
func (v *visit) restored(ctx context.Context) error {
	v.beat.nextHistory()
	return apart(v.question, func() error { return v.again(ctx) })
}

// doubted asks again since nobody of the answer has answered.
func (v *visit) doubted(ctx context.Context, doubt resolver.Doubt) error {
	defer doubt.Over()
	return apart(v.question, func() error { return v.again(ctx) })
}

// feel follows a change of the agent's pulse. A single agent that is silent is not given up:
// when it goes on, so does the question that it has been asked.
func (v *visit) feel(ctx context.Context) error {
	switch silent := v.beat.next(); {
	case silent && v.several:
		return errSilent
	case silent:
		if !v.silent {
			v.silent = true
			v.publish(resolver.Answer{Err: v.explain(errSilent)})
		}
		return nil
	}
	return v.again(ctx)
}

// again asks without waiting, whatever is waited for.
func (v *visit) again(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.client.config.Timeout)
	defer cancel()
	got, err := v.client.askOnce(ctx, v.agent, v.question, 0)
	if err != nil {
		return err
	}
	v.last = got
	v.say()
	if v.among != nil {
		v.among.answered(got.index, got.instances)
	}
	if got.index < v.index { // of servers that do not know what is waited for
		return errBackwards
	}
	return nil
}

// end takes note of the error that ended the visit, and returns what is to end the watch.
func (v *visit) end(err error) error {
	v.client.failed(v.agent, err)
	if !v.several || !another(err) {
		return v.explain(err)
	}
	return nil
}

func (v *visit) explain(err error) error {
	return request{agent: v.agent, what: v.question.what, rule: v.question.rule}.explain(err)
}
