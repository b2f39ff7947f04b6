package agent

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// unhookOwn unhooks the chains in our own namespace, which are those of mode m, for the
// families that were applied.
func (a *agent) unhookOwn(m config.Mode, applied []netrules.Family) {
	a.takeDownOwn(m, applied, a.rules.Unhook)
}

// removeOwn removes them, but for those that connections need which others carry.
func (a *agent) removeOwn(m config.Mode, applied []netrules.Family) {
	a.takeDownOwn(m, applied, func(ctx context.Context, ns *netns.Namespace) error {
		if a.staying.MustStay(nil) {
			return a.rules.Unhook(ctx, ns)
		}
		_, err := a.rules.Remove(ctx, ns)
		return err
	})
}

// takeDownOwn does a step in our own namespace, and minds where it fails if we have applied
// anything. The agent's context has ended by then; every step bounds itself.
func (a *agent) takeDownOwn(m config.Mode, applied []netrules.Family, step func(context.Context, *netns.Namespace) error) {
	if a.tuned().cfg.KeepRules || !a.owns() {
		return
	}
	if err := step(context.Background(), nil); err != nil && len(applied) > 0 {
		a.log.Error("cannot remove the rules of mode "+string(m), "error", err, "hint", "run: ambassadord rules remove")
	}
}
