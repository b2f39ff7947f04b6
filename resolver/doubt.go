package resolver

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// doubtEvery bounds how often one watch's answer is doubted.
	doubtEvery = time.Second
	// doubtFor bounds how long a connection waits for a source to look again.
	doubtFor = time.Second
)

// Doubt is that an answer is no longer true: all endpoints that it names refuse. A source that
// takes one from Doubts asks again at once, whatever it knows of how long its answer holds,
// publishes what is new, and then calls Over.
type Doubt struct{ over func() }

// Over says that the source has looked again. The zero value's does nothing, and no
// other's does more the second time.
func (d Doubt) Over() {
	if d.over != nil {
		d.over()
	}
}

type doubtsKey struct{}

// Doubts are received from by a source whose Watch has ctx; nil if nobody doubts. A source
// that hears of every change at once need not.
func Doubts(ctx context.Context) <-chan Doubt {
	c, _ := ctx.Value(doubtsKey{}).(chan Doubt)
	return c
}

// doubting is how a watch's answer is doubted, by one connection for all.
type doubting struct {
	ask chan Doubt // without a buffer: a source that does not listen is not waited for

	mu   sync.Mutex
	last time.Time
	open Doubt
	over chan struct{} // closed when the source has looked again; nil before the first doubt
}

// doubt has the source look again, unless it did so a moment ago, and returns a channel that
// is closed when it has; nil if it does not.
func (d *doubting) doubt(now time.Time) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over != nil {
		select {
		case <-d.over:
		default:
			return d.over // it is about to
		}
	}
	if !d.last.IsZero() && now.Sub(d.last) < doubtEvery {
		return nil
	}
	over := make(chan struct{})
	doubt := Doubt{sync.OnceFunc(func() { close(over) })}
	select {
	case d.ask <- doubt:
	default:
		return nil
	}
	d.last, d.open, d.over = now, doubt, over
	return over
}

// end ends the doubt of a source that has failed instead.
func (d *doubting) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open.Over()
}

// Doubt has the sources whose endpoints t has now look again, since all of these have
// refused, and waits for them, a second at most. One that fails is asked before its turn, unless
// it has failed within Options.NegativeFor. A watch is doubted once a second. It reports whether t has other endpoints than known by now.
func (r *Resolver) Doubt(ctx context.Context, t Target, known *Resolution) bool {
	if known == nil || r.started(ctx) != nil {
		return false
	}
	now := time.Now()
	v := r.view(t, now, r.watching)
	if v.chosen < 0 {
		return true
	}
	asked := view{find: r.watching}
	r.readChoice(t.Choices[v.chosen], now, &asked)
	ctx, cancel := context.WithTimeout(ctx, doubtFor)
	defer cancel()
	var overs []<-chan struct{}
	for _, a := range asked.answers {
		if a.state.err != nil && !a.state.standing {
			if now.Sub(a.state.failed) >= r.options.NegativeFor && !a.watch.askedAt().After(a.state.failed) {
				a.watch.askNow()
			}
			continue
		}
		if over := a.watch.doubting.doubt(now); over != nil {
			overs = append(overs, over)
		}
	}
	for _, over := range overs {
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
	v = r.view(t, now, r.watching)
	return !slices.EqualFunc(v.endpoints(), known.Endpoints, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}
