package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// contest is a whole run.
type contest struct {
	insideBench
	arena    *arena
	ways     []*measuredWay
	result   *insideResult
	progress io.Writer
}

// compete gives every contestant its turn under every workload in every round. All are up
// at once and take turns workload by workload, so that what is compared was measured
// moments apart: a processor whose other thread belongs to somebody else runs twice as
// fast in one second as in the next. One that fails is out; the others go on.
func (b insideBench) compete(ctx context.Context, a *arena, chosen []insideContestant, progress io.Writer) (*insideResult, error) {
	c := &contest{insideBench: b, arena: a, result: newResult(ctx, b, chosen), progress: progress}
	defer c.close()
	for _, one := range chosen {
		w, err := b.open(ctx, a, one)
		c.ways = append(c.ways, w)
		if err != nil {
			c.out(w, err)
		}
	}
	for round := range b.rounds {
		fmt.Fprintf(progress, "round %d of %d\n", round+1, b.rounds)
		for _, party := range parties(c.ways) {
			c.play(ctx, round, party)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	c.result.DockerProxies, _ = a.proxies() // before they are gone; only told
	return c.result, nil
}

func (c *contest) close() {
	for _, w := range c.ways {
		if err := w.close(); err != nil {
			c.out(w, err)
		}
	}
}

func (c *contest) out(w *measuredWay, why error) {
	c.result.Failures[w.name] = why.Error()
	fmt.Fprintf(c.progress, "%s is out: %v\n", w.name, why)
}

// parties are the ways that may be up together: those that are alone on the host, each
// by itself, and all others.
func parties(ways []*measuredWay) [][]*measuredWay {
	var together []*measuredWay
	var all [][]*measuredWay
	for _, w := range ways {
		if w.alone {
			all = append(all, []*measuredWay{w})
		} else {
			together = append(together, w)
		}
	}
	return append(all, together)
}

// play gives the ways of a party one turn under each workload, in an order drawn anew for
// each.
func (c *contest) play(ctx context.Context, round int, party []*measuredWay) {
	loads := workloads()
	for _, i := range rand.Perm(len(loads)) {
		for _, j := range rand.Perm(len(party)) {
			w := party[j]
			if ctx.Err() != nil || c.result.Failures[w.name] != "" {
				continue
			}
			v, err := c.turn(ctx, w, loads[i])
			if err != nil {
				c.out(w, fmt.Errorf("%s: %w", loads[i].name, err))
				continue
			}
			v.Round = round
			c.result.Values = append(c.result.Values, v)
		}
	}
	for _, w := range party {
		if err := w.leave(); err != nil {
			c.out(w, err)
		}
	}
}

// turn measures one workload. What the processes between have used is counted from when
// the generator is warm.
func (c *contest) turn(ctx context.Context, w *measuredWay, load workload) (value, error) {
	if err := w.enter(ctx); err != nil {
		return value{}, err
	}
	var before time.Duration
	r, err := w.session.do(w.jobFor(c.arena, load, c.time), func() (err error) {
		before, err = w.cpu()
		return err
	})
	if err != nil {
		return value{}, err
	}
	after, err := w.cpu()
	if err != nil {
		return value{}, err
	}
	v, err := newValue(load, r, after-before)
	v.Contestant = w.name
	return v, err
}
