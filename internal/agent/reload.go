package agent

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/sources"
)

// reloads is what reload needs.
type reloads struct {
	hooks Hooks
	mu    sync.Mutex      // held by the one that runs
	ctx   context.Context // of serving; nil before, and it has ended after
	over  bool            // another daemon goes on with what we have
}

// startReloads allows reload until ctx ends, and calls it when Hooks.Reload says so.
// The WaitGroup is done when none runs any more.
func (a *agent) startReloads(ctx context.Context) *sync.WaitGroup {
	a.reloads.mu.Lock()
	a.reloads.ctx = ctx
	a.reloads.mu.Unlock()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-a.reloads.hooks.Reload:
				_ = a.reload(ctx) // it has logged why not
			case <-ctx.Done():
				a.reloads.mu.Lock() // one that others called ends first
				defer a.reloads.mu.Unlock()
				return
			}
		}
	})
	return &running
}

// endReloads lets nothing be read again, and waits for who is at it.
func (a *agent) endReloads() {
	a.reloads.mu.Lock()
	defer a.reloads.mu.Unlock()
	a.reloads.over = true
}

// reload reads the configuration anew and changes what can be changed without touching
// a live connection. On any mistake all stays as it was, and the error, which is logged
// too, says why. It may be called by anybody, at any time.
func (a *agent) reload(context.Context) error {
	a.reloads.mu.Lock()
	defer a.reloads.mu.Unlock()
	err := a.readAgain()
	if err != nil {
		a.log.Error("cannot read the configuration again; it stays as it was", "error", err, hint.Attr(err))
	}
	return err
}

func (a *agent) readAgain() error {
	ctx := a.reloads.ctx
	switch {
	case a.reloads.hooks.Load == nil:
		return hint.Errorf("start the daemon with --config FILE", "nothing to read again")
	case ctx == nil:
		return hint.Errorf("try again in a moment", "the daemon is starting")
	case a.reloads.over:
		return errors.New("another daemon is taking over")
	case ctx.Err() != nil:
		return errors.New("the daemon is stopping")
	}
	a.shelf.reloading()
	defer a.shelf.ready(false)
	cfg, err := a.reloads.hooks.Load()
	if err != nil {
		return err
	}
	restart := keepStarted(&cfg, a.tuned().cfg)
	if err := a.somethingToDo(cfg); err != nil {
		return err
	}
	next, err := a.settings(cfg)
	if err != nil {
		return err
	}
	if err := a.canServe(cfg); err != nil {
		return err
	}
	if err := a.changeListeners(ctx, next); err != nil {
		return err
	}
	a.tune(next)
	bounds := a.bounds
	bounds.Rate = cfg.AcceptRate
	a.server.Limit.Set(bounds)
	a.server.ReclaimIdle(cfg.ReclaimIdle)
	if a.reloads.hooks.Tuned != nil {
		a.reloads.hooks.Tuned(cfg)
	}
	a.log.Info("read the configuration again", "listeners", len(cfg.Listeners), "targets", len(cfg.Targets), "clients", len(cfg.Clients), "rules", len(cfg.Policy.Rules))
	if len(restart) > 0 {
		a.log.Warn("some settings stay as they were until a restart", "settings", restart, "hint", "restart the daemon when that suits, or start another with --takeover")
	}
	return nil
}

// somethingToDo refuses a daemon with neither a mode nor a listener.
func (a *agent) somethingToDo(cfg config.Config) error {
	if len(a.modes) == 0 && len(cfg.Listeners) == 0 {
		return hint.Errorf("give LISTEN_PORT=TARGET, or a --mode", "nothing to listen for")
	}
	return nil
}

// canServe refuses targets for which this daemon lacks a part, which it only starts
// when something needs it.
func (a *agent) canServe(cfg config.Config) error {
	if a.docker != nil {
		return nil
	}
	for _, l := range cfg.Listeners {
		if target, err := a.resolver.Parse(l.Target); err == nil && sources.AskEngine(target) { // layersOf has parsed them all
			return l.At(hint.Errorf("restart it", "%q asks the engine, and the daemon was started without one", l.Target))
		}
	}
	return nil
}

// startSettings are those that only a restart changes, by their flags.
var startSettings = []struct {
	name  string
	value func(*config.Config) any // a pointer
}{
	{"mode", func(c *config.Config) any { return &c.Modes }},
	{"host-addr", func(c *config.Config) any { return &c.HostAddrs }},
	{"trust-source-addresses", func(c *config.Config) any { return &c.TrustSources }},
	{"docker-host", func(c *config.Config) any { return &c.DockerHost }},
	{"consul-addr", func(c *config.Config) any { return &c.ConsulAddr }},
	{"consul-domain", func(c *config.Config) any { return &c.ConsulDomain }},
	{"etcd-endpoints", func(c *config.Config) any { return &c.EtcdEndpoints }},
	{"max-connections", func(c *config.Config) any { return &c.MaxConnections }},
	{"resolve-timeout", func(c *config.Config) any { return &c.ResolveTimeout }},
	{"rules", func(c *config.Config) any { return &c.Rules }},
	{"run-dir", func(c *config.Config) any { return &c.RunDir }},
	{"run-dir-shared", func(c *config.Config) any { return &c.RunDirShared }},
	{"max-stale", func(c *config.Config) any { return &c.MaxStale }},
}

// keepStarted gives cfg what started has of those settings, and names the ones that
// differed.
func keepStarted(cfg *config.Config, started config.Config) (differed []string) {
	for _, s := range startSettings {
		to, from := reflect.ValueOf(s.value(cfg)).Elem(), reflect.ValueOf(s.value(&started)).Elem()
		if !reflect.DeepEqual(to.Interface(), from.Interface()) {
			differed = append(differed, s.name)
		}
		to.Set(from)
	}
	if (len(cfg.Keeper) > 0) != (len(started.Keeper) > 0) {
		differed = append(differed, "keep-connections")
	}
	cfg.Keeper, cfg.RulesByOthers, cfg.Port = started.Keeper, started.RulesByOthers, started.Port
	slices.Sort(differed)
	return differed
}
