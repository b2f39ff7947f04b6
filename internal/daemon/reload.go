package daemon

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/internal/status"
)

// reloads reads the configuration anew.
type reloads struct {
	*parts
	hooks Hooks
	began time.Time       // when the configuration of the start was read
	mu    sync.Mutex      // held by the one that runs
	ctx   context.Context // of serving; nil before, and it has ended after
	over  bool            // another daemon goes on with what we have

	last atomic.Pointer[status.Configuration] // nil while nobody has asked for a reload
}

// start allows reload until ctx ends, and calls it when Hooks.Reload says so; it opens the access log again when
// Hooks.Reopen does.
// The WaitGroup is done when none runs any more.
func (r *reloads) start(ctx context.Context) *sync.WaitGroup {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-r.hooks.Reload:
				_ = r.reload(ctx) // it has logged why not
			case <-r.hooks.Reopen:
				r.lines.Reopen(0)
			case <-ctx.Done():
				r.mu.Lock() // one that others called ends first
				defer r.mu.Unlock()
				return
			}
		}
	})
	return &running
}

// end lets nothing be read again, and waits for the one that runs.
func (r *reloads) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
}

// reload reads the configuration anew and changes what can be changed without touching
// a live connection. On any mistake all stays as it was, and the error, which is logged
// too, says why. It may be called by anybody, at any time.
func (r *reloads) reload(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.readAgain()
	r.note(err)
	if err != nil {
		r.log.Error("cannot read the configuration again; it stays as it was", "error", err, hint.Attr(err))
	}
	return err
}

// note remembers how a reload has ended.
func (r *reloads) note(refused error) {
	last := status.Configuration{Read: r.configuration().Read, Refused: refused}
	if refused == nil {
		last.Read = time.Now()
	}
	r.last.Store(&last)
}

// configuration is which configuration holds.
func (r *reloads) configuration() status.Configuration {
	if last := r.last.Load(); last != nil {
		return *last
	}
	return status.Configuration{Read: r.began}
}

func (r *reloads) readAgain() error {
	ctx := r.ctx
	switch {
	case r.hooks.Load == nil:
		return hint.Errorf("start the daemon with --config FILE", "nothing to read again")
	case ctx == nil:
		return hint.Errorf("try again in a moment", "the daemon is starting")
	case r.over:
		return errors.New("another daemon is taking over")
	case ctx.Err() != nil:
		return errors.New("the daemon is stopping")
	}
	r.sockets.Reloading()
	defer r.sockets.Ready(false)
	cfg, err := r.hooks.Load()
	if err != nil {
		return err
	}
	restart := settings.KeepStarted(&cfg, r.settings.Load().Config)
	if err := r.somethingToDo(cfg); err != nil {
		return err
	}
	next, err := r.reader.Read(cfg)
	if err != nil {
		return err
	}
	if err := r.canServe(cfg); err != nil {
		return err
	}
	if err := r.listeners.Change(ctx, next); err != nil {
		return err
	}
	r.settings.Replace(next)
	bounds := r.bounds
	bounds.Rate = cfg.AcceptRate
	r.server.Limit.Set(bounds)
	r.server.ReclaimIdle(cfg.ReclaimIdle)
	r.lines.Change(cfg)
	r.lines.Reopen(0)
	if r.hooks.Applied != nil {
		r.hooks.Applied(cfg)
	}
	r.log.Info("read the configuration again", "listeners", len(cfg.Listeners), "targets", len(cfg.Targets), "clients", len(cfg.Clients), "rules", len(cfg.Policy.Rules))
	if len(restart) > 0 {
		r.log.Warn("some settings stay as they were until a restart", "settings", restart, "hint", "restart the daemon when that suits, or start another with --takeover")
	}
	return nil
}

// somethingToDo refuses a daemon with neither a mode nor a listener.
func (p *parts) somethingToDo(cfg config.Config) error {
	if len(p.modes) == 0 && len(cfg.Listeners) == 0 {
		return hint.Errorf("give LISTEN_PORT=TARGET, or a --mode", "nothing to listen for")
	}
	return nil
}

// canServe refuses targets for which this daemon lacks a part, which it only starts
// when something needs it.
func (p *parts) canServe(cfg config.Config) error {
	if p.engine != nil {
		return nil
	}
	for _, l := range cfg.Listeners {
		if target, err := p.reader.Parse(l.Target); err == nil && sources.AskEngine(target) { // the settings were read
			return l.At(hint.Errorf("restart it", "%q asks the engine, and the daemon was started without one", l.Target))
		}
	}
	return nil
}
