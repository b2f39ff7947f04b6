package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
)

// Run runs the daemon until ctx ends, then drains and cleans up; or until another daemon
// has taken over and the last connection has ended.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger, hooks Hooks) error {
	began, succeeding := time.Now(), false
	for {
		a, err := runOnce(ctx, cfg, log, hooks, succeeding)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil: // we were told to stop, so to have broken off is no failure
			log.Info("stopped before it served", "error", err)
			return nil
		case !errors.Is(err, handover.ErrGone):
			return err
		case time.Since(began) > successionPatience:
			return hint.Wrap(err, "see what became of it: ambassadord doctor; when none is running, run: ambassadord run")
		case !succeeding:
			log.Warn("the old daemon has broken off the takeover, as one that ends does; serving in its place as soon as it has ended", "error", err)
			succeeding = true
		}
		if a.awaitGone(ctx); ctx.Err() != nil {
			log.Info("stopped before it served")
			return nil
		}
	}
}

// runOnce is Run, but for what it does when the daemon before us ends amid the takeover.
// succeeding says that one has.
func runOnce(ctx context.Context, cfg config.Config, log *slog.Logger, hooks Hooks, succeeding bool) (*agent, error) {
	a, stop, err := start(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	defer stop()
	a.reloads.hooks = hooks
	a.succeeding = succeeding
	err = a.serve(ctx, hooks)
	return a, err
}
