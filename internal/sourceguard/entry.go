package sourceguard

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/identity"
)

// Entry is what modes host and link have in common as ways in: the first half of a mode.Mode, where
// clients are known by their source addresses.
type Entry struct {
	SourceGuard *Guard // nil where source addresses cannot be guarded
	Accept      func() // begins to
}

// Update is part of mode.Mode. It concerns the guard alone: which containers are clients shows when
// they connect.
func (e *Entry) Update(_ context.Context, table *identity.Table) { e.SourceGuard.Follow(table) }

// Ready is part of mode.Mode. The mode accepts as soon as the guard knows the containers that are
// there: no source address is believed before.
func (e *Entry) Ready(ctx context.Context) error {
	if err := e.SourceGuard.Ready(ctx); err != nil {
		return err
	}
	e.Accept()
	return nil
}
