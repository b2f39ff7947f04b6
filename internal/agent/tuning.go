package agent

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// tuning is what a reload may change. It never changes itself: it is replaced.
type tuning struct {
	// cfg is the configuration that was read last; of what needs a restart it still
	// has what the daemon was started with.
	cfg    config.Config
	layers *binding.Layers
	policy *policy.Policy

	replaced context.Context // ends when there is a newer tuning
	replace  context.CancelFunc
}

// tuned returns what holds now.
func (a *agent) tuned() *tuning {
	if t := a.tuning.Load(); t != nil {
		return t
	}
	return newTuning(a.cfg, nil) // parts of the daemon that run alone, for a command or a test
}

func newTuning(cfg config.Config, layers *binding.Layers) *tuning {
	t := &tuning{cfg: cfg, layers: layers}
	t.replaced, t.replace = context.WithCancel(context.Background())
	return t
}

// settings is what cfg says, read; its error names all that cannot be used.
func (a *agent) settings(cfg config.Config) (*tuning, error) {
	layers, err := layersOf(cfg, a.resolver.Parse)
	if err != nil {
		return nil, err
	}
	if err := withoutEarlyRefusal(cfg.Listeners, layers, a.modes); err != nil {
		return nil, err
	}
	t := newTuning(cfg, layers)
	t.policy = policyOf(cfg, a.modes, a.registries, &a.addrs)
	layers.Permit = permit(t.policy)
	return t, nil
}

// tune lets t hold from now on. It is called by one goroutine at a time.
func (a *agent) tune(t *tuning) {
	if old := a.tuning.Swap(t); old != nil {
		old.replace()
	}
}

// news waits for a newer snapshot than last, or for t to be replaced, when last is
// the newest still.
func (a *agent) news(ctx context.Context, t *tuning, last *dockerd.Snapshot) (*dockerd.Snapshot, error) {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(t.replaced, stop)()
	if a.docker == nil {
		<-waiting.Done()
		return nil, ctx.Err()
	}
	next, err := a.docker.Wait(waiting, last)
	if err != nil && ctx.Err() == nil {
		return last, nil
	}
	return next, err
}
