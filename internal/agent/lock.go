package agent

import (
	"context"
	"slices"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// needsLock reports whether we are the daemon of a host.
func (a *agent) needsLock() bool {
	return slices.ContainsFunc(a.modes, func(m config.Mode) bool { return m != config.Link })
}

func (a *agent) hasMode(m config.Mode) bool { return slices.Contains(a.modes, m) }

// openRunDir opens the folder of locks and sockets. Who serves no host does without.
func (a *agent) openRunDir() error {
	dir, err := rundir.Open(a.cfg.RunDir)
	if err == nil {
		a.dir, a.staying.Dir = dir, dir
		return nil
	}
	if a.needsLock() {
		return err
	}
	a.log.Warn("this daemon can be neither reloaded nor taken over by a command", "error", err, hint.Attr(err))
	return nil
}

// takeLock takes the host's lock, which the daemon before us may have handed over. unlock
// gives it up, or lets go of our own hold alone if another daemon has it from us, or the
// one before us has not let go and has it still.
func (a *agent) takeLock(ctx context.Context) (unlock func(), err error) {
	if !a.needsLock() {
		return func() {}, nil
	}
	l, err := handover.TakeHostLock(ctx, a.dir, a.inherited, a.log)
	if err != nil {
		return nil, err
	}
	if a.hostLock = l; a.owns() {
		l.Claim(a.log)
	}
	remove := l.Register(&a.registry)
	return func() {
		remove()
		if a.given.Load() || !a.owns() {
			l.Leave()
		} else {
			l.Release()
		}
	}, nil
}

// othersDrain reports whether another daemon has handed over and carries connections
// still, which come through the rules.
func (a *agent) othersDrain() bool { return handover.OthersDrain(a.dir) }
