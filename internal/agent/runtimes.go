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
}

// ownStack names the kind of a container's runtime if it has a network stack of its own, "" if
// it has not, or if that is not known.
func (a *agent) ownStack(ctx context.Context, c *dockerd.Container) string {
	if kind := (dockerd.Runtime{Name: c.Runtime}).OwnStack(); c.Runtime == "" || c.Runtime == "runc" || kind != "" && a.docker == nil {
		return kind // most are runc's, and cost no question
	}
	return a.runtime(ctx, c.Runtime).OwnStack()
}

// runtime is what the engine means by a name; without its answer it is the name alone.
func (a *agent) runtime(ctx context.Context, name string) dockerd.Runtime {
	r := &a.runtimes
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.byName[name]; ok {
		return known
	}
	if a.docker != nil && time.Since(r.asked) > runtimesEvery {
		r.asked = time.Now()
		if all, err := a.docker.Runtimes(ctx); err != nil {
			a.log.Debug("what the runtimes of containers are is not known", "error", err)
		} else {
			r.byName = all
		}
	}
	known := r.byName[name]
	known.Name = cmp.Or(known.Name, name)
	return known
}

// sayOwnStack says of a container that has just been attached that its dials will not come.
func (at *attachment) sayOwnStack(ctx context.Context, n *identity.Namespace) {
	for _, client := range n.Clients {
		c := client.Container
		kind := at.agent.ownStack(ctx, c)
		if kind == "" || len(client.Bindings.Ports()) == 0 {
			continue
		}
		err := dockerd.OwnStackError(c.Runtime, kind, string(at.mode))
		at.agent.log.Warn("what a container dials at localhost does not get here, and is refused", "client", c.Name, "id", c.ShortID(),
			"runtime", c.Runtime, "error", err, hint.Attr(err))
	}
}
