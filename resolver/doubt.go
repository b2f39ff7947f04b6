package resolver

import (
	"context"
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
