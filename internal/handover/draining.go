package handover

import (
	"context"
	"fmt"
	"time"

	"github.com/ambassadord/ambassadord/internal/abstract"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// A daemon that has handed over and carries connections still says so by a mark in the
// folder. The chains those came through have to stay, so whoever is the last to end
// removes them.

// AnnounceDraining makes such a mark, until end or our own end.
func AnnounceDraining(dir *rundir.Dir) (end func(), err error) {
	mark, err := dir.Mark()
	if err != nil {
		return nil, fmt.Errorf("say that connections are carried on: %w", err)
	}
	return mark.Release, nil
}

// OthersDrain reports whether another daemon of this network namespace has handed over
// and carries connections still, older ones included that have no folder (see package
// abstract). What cannot be known counts as yes. A nil dir is that of a daemon which could
// have none, and knows the older ones alone.
func OthersDrain(dir *rundir.Dir) bool {
	if dir != nil {
		if marks, err := dir.Marks(); err != nil || marks > 0 {
			return true
		}
	}
	return abstract.Drains(context.Background())
}

// AwaitDrained waits until no other daemon drains, and reports whether that came before
// ctx ended.
func AwaitDrained(ctx context.Context, dir *rundir.Dir) bool {
	const look = time.Second
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for OthersDrain(dir) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
