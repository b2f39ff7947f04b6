package agent

import (
	"context"
	"sync"

	"github.com/ambassadord/ambassadord/internal/config"
)

// clearStale removes, in the background until ctx ends, what a daemon that is gone has left
// where none of our modes has rules, since nothing else would come by there: in our own
// namespace, and in those of containers. Who takes over knows what there is, and does without.
func (a *agent) clearStale(ctx context.Context, clearing *sync.WaitGroup) {
	own := !a.hasMode(config.Host) && !a.hasMode(config.Link)
	containers := !a.hasMode(config.Redirect)
	if a.gate != nil || !a.needsLock() || !own && !containers {
		return
	}
	clearing.Go(func() {
		if err := a.staying.RemoveStale(ctx, a.rules, own, containers); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot see all that a daemon that is gone may have left", "error", err, "hint", "run: ambassadord rules remove")
		}
		a.log.Debug("looked for what a daemon that is gone may have left")
	})
}
