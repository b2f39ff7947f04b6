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
	least     uint64 // bytes of the heap that are worth keeping, come what may
	allocated uint64 // bytes ever, when it last looked
	trimmed   uint64 // likewise, when it last gave some back
}

const (
	trimPeriod = time.Second
	// worthTrimming is how many bytes must have been allocated since.
	worthTrimming = 2 << 20
	// heapAsARule is what a daemon with few connections has in use between collections. It
	// would have it again at once, page by page.
	heapAsARule = 6 << 20
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
	samples := [...]metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
	}
	metrics.Read(samples[:])
	now, heap := samples[0].Value.Uint64(), uint64(0)
	for i := range samples[1:] {
		heap += samples[1+i].Value.Uint64()
	}
	if t.trimmed == 0 {
		t.trimmed = now // what came before is not the connections'
	}
	quiet := now-t.allocated < restless
	t.allocated = now
	if !quiet || now-t.trimmed < worthTrimming || heap <= t.least {
		return false
	}
	debug.FreeOSMemory()
	t.trimmed = now
	return true
}
