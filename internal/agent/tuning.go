package agent

import (
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
)

// tuning is what a reload may change. It never changes itself: it is replaced.
type tuning struct {
	// cfg is the configuration that was read last; of what needs a restart it still
	// has what the daemon was started with.
	cfg    config.Config
	layers *binding.Layers
}

// tuned returns what holds now.
func (a *agent) tuned() *tuning {
	if t := a.tuning.Load(); t != nil {
		return t
	}
	return &tuning{cfg: a.cfg} // parts of the daemon that run alone, for a command or a test
}
