package dockerd

import (
	"context"
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
