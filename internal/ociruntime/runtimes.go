package ociruntime

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"
)

// runtimesEvery is how often the engine is asked at most what the names of runtimes mean.
const runtimesEvery = time.Minute

// Runtimes knows what the names of runtimes mean to the engine, which it asks when it has to. The
// zero value asks no engine: a runtime is what its name says.
type Runtimes struct {
	// Ask asks the engine, within bounds of its own: dockerd.Watcher.Runtimes. It may be nil.
	Ask func(context.Context) (map[string]Runtime, error)
	// Log is told, at level debug, why the engine did not answer. It is not nil unless Ask is.
	Log *slog.Logger

	mu     sync.Mutex
	byName map[string]Runtime
	asked  time.Time
	answer chan struct{} // closed when the engine has answered, or has not; nil while it is not asked
}

// OwnStack names the kind of the runtime of that name if it has a network stack of its own, "" if
// it has not, or if that is not known. It may have to ask the engine.
func (r *Runtimes) OwnStack(ctx context.Context, name string) string {
	if kind := (Runtime{Name: name}).OwnStack(); name == "" || name == "runc" || kind != "" && r.Ask == nil {
		return kind // most are runc's, and cost no question
	}
	runtime, err := r.meant(ctx, name)
	if err != nil {
		r.Log.Debug("what the runtimes of containers are is not known", "error", err)
	}
	return runtime.OwnStack()
}

// meant is what the engine means by a name; without its answer it is the name alone. No call
// holds a lock while the engine is asked, which takes seconds if it hangs: calls meanwhile about
// a name that is known have it at once, and others wait for the same answer. err is why the
// engine did not answer this call.
func (r *Runtimes) meant(ctx context.Context, name string) (meant Runtime, err error) {
	r.mu.Lock()
	known, ok := r.byName[name]
	answer := r.answer
	mine := !ok && answer == nil && r.Ask != nil && time.Since(r.asked) > runtimesEvery
	if mine {
		r.asked, r.answer = time.Now(), make(chan struct{})
	}
	r.mu.Unlock()
	switch {
	case ok:
		return known, nil
	case mine:
		// Also if this call is given up, since others wait for the answer.
		all, askErr := r.Ask(context.WithoutCancel(ctx)) // bounds itself
		err = askErr
		r.mu.Lock()
		if err == nil {
			r.byName = all
		}
		close(r.answer)
		r.answer = nil
		r.mu.Unlock()
	case answer != nil:
		select {
		case <-answer:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known = r.byName[name]
	known.Name = cmp.Or(known.Name, name)
	return known, err
}
