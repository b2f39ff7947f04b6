package dockerd

import (
	"context"
	"errors"
	"fmt"
)

// Inspect asks the engine for one container now, past the snapshot: for those
// who must know that what the snapshot says still holds.
func (w *Watcher) Inspect(ctx context.Context, id string) (*Container, error) {
	c, err := w.engine.inspect(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("container %.12s: %w", id, err)
	}
	return c, nil
}

// IsGone reports whether err says that the engine has no such container.
func IsGone(err error) bool { return errors.Is(err, errNoContainer) }
