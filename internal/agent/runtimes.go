package agent

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
)

// runtimesEvery is how often the engine is asked at most what the names of runtimes mean.
const runtimesEvery = time.Minute

// runtimes are those that the engine's settings name.
type runtimes struct {
	mu     sync.Mutex
	byName map[string]dockerd.Runtime
	asked  time.Time
	answer chan struct{} // closed when the engine has answered, or has not; nil while it is not asked
}

// ownStack names the kind of a container's runtime if it has a network stack of its own, "" if
// it has not, or if that is not known. It may have to ask the engine.
func (a *agent) ownStack(ctx context.Context, c *dockerd.Container) string {
	if kind := (dockerd.Runtime{Name: c.Runtime}).OwnStack(); c.Runtime == "" || c.Runtime == "runc" || kind != "" && a.docker == nil {
		return kind // most are runc's, and cost no question
	}
	var ask func(context.Context) (map[string]dockerd.Runtime, error)
	if a.docker != nil {
		ask = a.docker.Runtimes
	}
	runtime, err := a.runtimes.meant(ctx, c.Runtime, ask)
	if err != nil {
		a.log.Debug("what the runtimes of containers are is not known", "error", err)
	}
	return runtime.OwnStack()
}

// meant is what the engine means by a name; without its answer it is the name alone. Nobody
// holds a lock while the engine is asked, which takes seconds if it hangs: those who want to
// know something meanwhile that is known already get it, and others wait for the same answer.
// err is why the engine did not answer who has asked it.
func (r *runtimes) meant(ctx context.Context, name string, ask func(context.Context) (map[string]dockerd.Runtime, error)) (meant dockerd.Runtime, err error) {
	r.mu.Lock()
	known, ok := r.byName[name]
	answer := r.answer
	mine := !ok && answer == nil && ask != nil && time.Since(r.asked) > runtimesEvery
	if mine {
		r.asked, r.answer = time.Now(), make(chan struct{})
	}
	r.mu.Unlock()
	switch {
	case ok:
		return known, nil
	case mine:
		// Also if who has asked gives up: the others want to know, too.
		all, askErr := ask(context.WithoutCancel(ctx)) // bounds itself
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

// sayOwnStack says of a container that has just been attached that its dials will not come. It
// may take as long as the engine takes to answer, and is given up when at ends.
func (at *attachment) sayOwnStack(ctx context.Context, n *identity.Namespace) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer closing(at.ending, stop)()
	defer closing(at.leaving, stop)()
	for _, client := range n.Clients {
		c := client.Container
		kind := at.agent.ownStack(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if kind == "" || len(client.Bindings.Ports()) == 0 {
			continue
		}
		err := dockerd.OwnStackError(c.Runtime, kind, string(at.mode))
		at.agent.log.Warn("what a container dials at localhost does not get here, and is refused", "client", c.Name, "id", c.ShortID(),
			"runtime", c.Runtime, "error", err, hint.Attr(err))
	}
}
