package trim

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// kept is how many bytes of the heap the process holds without using them.
func kept() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() + samples[1].Value.Uint64()
}

func TestTrim(t *testing.T) {
	trim, other := trimmer{}, trimmer{least: 1 << 30}
	other.look()
	if trim.look() == gaveBack {
		t.Error("memory is given back at the start")
	}
	percent := debug.SetGCPercent(-1)
	for range 1000 {
		sink = make([]byte, 32<<10)
	}
	sink = nil
	if found := trim.look(); found != restless {
		t.Errorf("%v is found while more is about to be needed, want %v", found, restless)
	}
	debug.SetGCPercent(percent)
	runtime.GC()
	before := kept()
	// The first may find what was not counted before the collection.
	if found := other.look(); found == gaveBack || other.look() == gaveBack {
		t.Error("memory is given back that is worth keeping")
	}
	if found := trim.look(); found != gaveBack && trim.look() != gaveBack {
		t.Error("no memory is given back")
	}
	if after := kept(); before < 16<<20 || after > before/4 {
		t.Errorf("%d bytes are kept, of %d", after, before)
	}
	if found := trim.look(); found != atRest {
		t.Errorf("%v is found though nobody has used memory, want %v", found, atRest)
	}
}

var sink []byte
