package agent

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// trimmer gives memory back to the kernel after a crowd of connections has come: what
// that took besides what the connections hold is garbage, which the runtime would keep
// for as much again (runtime/debug, SetGCPercent).
type trimmer struct {
	allocated uint64 // bytes ever, when it last looked
	trimmed   uint64 // likewise, when it last gave some back
}

const (
	trimPeriod = time.Second
	// worthTrimming is how many bytes must have been allocated since.
	worthTrimming = 2 << 20
	// restless is how many bytes a period allocates in which more are about to be.
	restless = 128 << 10
)

// run looks every period until ctx ends.
func (t *trimmer) run(ctx context.Context) {
	ticker := time.NewTicker(trimPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			t.look()
		}
	}
}

// look gives memory back when much was allocated, and next to nothing since it last
// looked. It reports whether it did.
func (t *trimmer) look() bool {
	sample := [1]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample[:])
	now := sample[0].Value.Uint64()
	if t.trimmed == 0 {
		t.trimmed = now // what came before is not the connections'
	}
	quiet := now-t.allocated < restless
	t.allocated = now
	if !quiet || now-t.trimmed < worthTrimming {
		return false
	}
	debug.FreeOSMemory()
	t.trimmed = now
	return true
}
