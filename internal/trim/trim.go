// Package trim gives memory back to the kernel after a burst of connections has come: what the
// burst took besides what its connections hold is garbage, which the runtime would keep for as
// much again (runtime/debug, SetGCPercent).
package trim

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// DaemonHeap is how many bytes of heap a daemon with few connections has in use between
// collections. Given back, it would be had again at once, page by page.
const DaemonHeap = 6 << 20

const (
	// A period in which nothing is found is followed by one twice as long, up to the longest,
	// since to look every second would be much of what an idle daemon does.
	trimPeriod        = time.Second
	longestTrimPeriod = 8 * time.Second
	// worthTrimming is how many bytes must have been allocated since.
	worthTrimming = 2 << 20
	// mostAtRest is how many bytes a period allocates after which no more are about to be.
	mostAtRest = 128 << 10
)

// Run looks again and again, and gives memory back, until ctx ends. A heap of least bytes is
// worth keeping, however it came to be; 0 keeps none.
func Run(ctx context.Context, least uint64) {
	t := trimmer{least: least}
	period := trimPeriod
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
		switch t.look() {
		case atRest:
			period = min(2*period, longestTrimPeriod)
		case restless, gaveBack:
			period = trimPeriod
		}
	}
}

// trimmer is what the looks know of each other.
type trimmer struct {
	least     uint64 // bytes of the heap that are worth keeping
	allocated uint64 // bytes ever, at the last look
	trimmed   uint64 // likewise, at the last look that gave memory back
}

// finding is what a look has found.
type finding int

const (
	atRest   finding = iota // nothing that is worth giving back
	restless                // more may be needed soon
	gaveBack                // memory that had been used
)

// look gives memory back when much was allocated, and next to nothing since the last look.
func (t *trimmer) look() finding {
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
		t.trimmed = now // what the process took before is not the connections'
	}
	fresh := now - t.allocated
	t.allocated = now
	switch {
	case fresh >= mostAtRest:
		return restless
	case now-t.trimmed < worthTrimming || heap <= t.least:
		return atRest
	}
	debug.FreeOSMemory()
	t.trimmed = now
	return gaveBack
}
