package consul

import (
	"context"
	"errors"
	"time"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
	"github.com/ambassadord/ambassadord/resolver/consul/sharedwatch"
)

// visit is a watch at one agent, which has answered once.
type visit struct {
	client       *Client
	agent        *agent
	spec         *watchSpec
	several      bool // there are others to turn to
	rate         *blocking.Rate
	publish      func(resolver.Answer)
	doubts       <-chan resolver.Doubt
	liveness     *livenessCursor
	subscription *sharedwatch.Subscription // to a shared watch; nil while there is none

	last   said
	index  uint64 // to wait on; 0 asks without waiting
	silent bool   // it has been published that the agent is
}

// watch asks again and again. Errors are the request's own.
func (v *visit) watch(ctx context.Context) error {
	defer func() { v.subscription.Leave() }()
	v.liveness = v.agent.liveness.join(v.agent, v.spec, v.client.config)
	defer v.liveness.leave()
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
		if !blocking.Pause(ctx, v.rate.Delay(time.Now())) {
			return ctx.Err()
		}
	}
}

// round waits until there may be something new, and asks.
func (v *visit) round(ctx context.Context) error {
	if v.spec.probe == nil || v.index == 0 {
		return v.ask(ctx, blocking.Slot{}, v.index)
	}
	if taken, ok := v.agent.slots.TakeBlocking(ctx, 0); ok {
		return v.ask(ctx, taken, v.index)
	}
	if err := v.awaitEvent(ctx); err != nil {
		return err
	}
	return v.ask(ctx, blocking.Slot{}, 0)
}

// awaitEvent waits, by a shared watch, until it may be that the answer is another, or for as long
// as a blocking query would.
func (v *visit) awaitEvent(ctx context.Context) error {
	if v.subscription == nil {
		v.subscription = v.agent.subscribe(v.spec, v.client.config)
	}
	v.subscription.Answered(v.last.index, v.last.instances)
	v.last.instances = nil // the shared watch has them
	overdue := time.NewTimer(blocking.Jitter(v.client.config.Wait))
	defer overdue.Stop()
	for {
		var err error
		select {
		case err := <-v.subscription.Events:
			return err
		case <-overdue.C: // not all that matters shows in an index: a node's address, for one
			return nil
		case <-v.liveness.changed:
			err = v.livenessChanged(ctx)
		case <-v.liveness.restored:
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

// ask asks, in a slot for a query that waits on the index waited unless that is 0, and publishes
// the answer. What no shared watch is for waits for its slot first.
func (v *visit) ask(ctx context.Context, taken blocking.Slot, waited uint64) error {
	var (
		got   said
		began time.Time
	)
	c, a, q := v.client, v.agent, v.spec
	gaveUp, err := v.attend(ctx, func(ctx context.Context) (err error) {
		if waited != 0 && q.probe == nil {
			var waits bool
			if taken, waits, err = c.awaitTurn(ctx, a, q); err != nil {
				return err
			}
			if !waits {
				waited = 0
			}
		}
		began = time.Now()
		got, err = c.askOnce(ctx, a, q, waited)
		return err
	})
	if !began.IsZero() && (gaveUp || ctx.Err() != nil) {
		taken.Release(blocking.Longest(c.config.Wait) - time.Since(began)) // the agent does not notice
	} else {
		taken.Release(0)
	}
	if err != nil {
		return err
	}
	v.last = got
	v.say()
	v.index = blocking.NextIndex(waited, got.index)
	v.note()
	return nil
}

// note has the history know what is waited on.
func (v *visit) note() {
	if v.spec.above {
		v.liveness.note(v.index)
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
)

// attend calls wait, and meanwhile follows the agent's signs of life and whether the answer is
// doubted. It reports whether it has given wait up.
func (v *visit) attend(ctx context.Context, wait func(context.Context) error) (gaveUp bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var waited error
	done := make(chan struct{}) // closed when that is set
	go func() {
		defer close(done)
		defer recovered(v.spec, &waited)
		waited = wait(ctx)
	}()
	for {
		var err error
		select {
		case <-done:
			return false, waited
		case <-v.liveness.changed:
			err = v.livenessChanged(ctx)
		case <-v.liveness.restored:
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

// livenessChanged is followLiveness where the goroutine of the watch has little stack, as restored
// and doubted are again.
func (v *visit) livenessChanged(ctx context.Context) error {
	return apart(v.spec, func() error { return v.followLiveness(ctx) })
}

// restored asks again since the agent's history is another.
func (v *visit) restored(ctx context.Context) error {
	v.liveness.nextHistory()
	return apart(v.spec, func() error { return v.again(ctx) })
}

// doubted asks again since nobody of the answer has answered.
func (v *visit) doubted(ctx context.Context, doubt resolver.Doubt) error {
	defer doubt.Over()
	return apart(v.spec, func() error { return v.again(ctx) })
}

// followLiveness follows a change of the agent's liveness. A single agent that is silent is not
// given up: when it goes on, so does what it has been asked.
func (v *visit) followLiveness(ctx context.Context) error {
	switch silent := v.liveness.next(); {
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
	got, err := v.client.askOnce(ctx, v.agent, v.spec, 0)
	if err != nil {
		return err
	}
	v.last = got
	v.say()
	if v.subscription != nil {
		v.subscription.Answered(got.index, got.instances)
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
	return request{agent: v.agent, what: v.spec.what, rule: v.spec.rule}.explain(err)
}
