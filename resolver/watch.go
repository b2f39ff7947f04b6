package resolver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// watch is the one watch of a query and what it last learned.
type watch struct {
	query Query
	used  atomic.Int64  // when somebody last asked, in Unix nanoseconds
	retry chan struct{} // asks for an attempt before the backoff ends
	stop  context.CancelFunc
	state atomic.Pointer[state]
	mu    sync.Mutex // held by writers of state
}

// state is what a watch knows; it is replaced, never changed.
type state struct {
	answer *Answer // the last one; nil until the first
	err    error   // the source's failure since then; nil while it is well
	since  time.Time
	// replaced is closed when this is no longer the watch's state.
	replaced chan struct{}
}

func newWatch(q Query) *watch {
	w := &watch{query: q, retry: make(chan struct{}, 1)}
	w.used.Store(time.Now().UnixNano())
	w.state.Store(&state{replaced: make(chan struct{})})
	return w
}

func (w *watch) usedAt() time.Time { return time.Unix(0, w.used.Load()) }

func (w *watch) publish(a Answer) { w.replace(&a, nil) }

// fail keeps the last answer beside the error.
func (w *watch) fail(err error) { w.replace(w.state.Load().answer, err) }

func (w *watch) replace(a *Answer, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.state.Swap(&state{answer: a, err: err, since: time.Now(), replaced: make(chan struct{})})
	close(old.replaced)
}

// runWatch asks source until ctx ends, with a growing pause after each failure.
func (r *Resolver) runWatch(ctx context.Context, w *watch, source Source) {
	backoff := r.options.BackoffMin
	for {
		err := watchOnce(ctx, source, w.query, func(a Answer) {
			if w.state.Load().err != nil {
				r.options.Log.Info("source is well again", "target", w.query.String())
			}
			backoff = r.options.BackoffMin
			w.publish(a)
		})
		if ctx.Err() != nil {
			return
		}
		if previous := w.state.Load().err; previous == nil || previous.Error() != err.Error() {
			r.options.Log.Warn("source failed; the last answer stays", "target", w.query.String(), "error", err)
		}
		w.fail(err)
		pause := time.NewTimer(backoff/2 + rand.N(backoff/2+1))
		select {
		case <-pause.C:
		case <-w.retry:
			pause.Stop()
		case <-ctx.Done():
			pause.Stop()
			return
		}
		backoff = min(backoff*2, r.options.BackoffMax)
	}
}

// watchOnce turns a source's panic into its failure: a hostile registry's answer
// must not end the daemon.
func watchOnce(ctx context.Context, s Source, q Query, publish func(Answer)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the %s source panicked: %v\n%s", q.Scheme, p, debug.Stack())
		}
	}()
	if err := s.Watch(ctx, q, publish); err != nil {
		return err
	}
	return errors.New("the source ended its watch without a reason")
}
