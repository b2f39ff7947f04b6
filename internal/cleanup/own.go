package cleanup

import (
	"context"
	"log/slog"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Own takes down the rules of a mode in the daemon's own network namespace.
type Own struct {
	Mode     config.Mode
	Rules    filter.Rules
	Settings *settings.Current
	Turn     *handover.Turn
	// MustStay reports whether the rules in ns have to stay for connections that others carry.
	MustStay func(ns *netns.Namespace) bool
	Log      *slog.Logger
}

// Unhook unhooks the chains, for the families that were applied.
func (o *Own) Unhook(applied []netrules.Family) { o.takeDown(applied, o.Rules.Unhook) }

// Remove removes them, but for those that connections need which others carry.
func (o *Own) Remove(applied []netrules.Family) {
	o.takeDown(applied, func(ctx context.Context, ns *netns.Namespace) error {
		if o.MustStay(nil) {
			return o.Rules.Unhook(ctx, ns)
		}
		_, err := o.Rules.Remove(ctx, ns)
		return err
	})
}

// takeDown does a step, and minds where it fails if anything was applied. The daemon's context has
// ended by then; every step bounds itself.
func (o *Own) takeDown(applied []netrules.Family, step func(context.Context, *netns.Namespace) error) {
	if o.Settings.Load().Config.KeepRules || !o.Turn.Ours() {
		return
	}
	if err := step(context.Background(), nil); err != nil && len(applied) > 0 {
		o.Log.Error("cannot remove the rules of mode "+string(o.Mode), "error", err, "hint", "run: ambassadord rules remove")
	}
}
