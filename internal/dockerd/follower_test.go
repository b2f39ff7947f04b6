package dockerd

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A stream that was opened at a socket of which another has the name by now tells nothing of
// those that connect to it.
func TestSocketMadeAnew(t *testing.T) {
	t.Parallel()
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "before", Running: true})
	f.start()
	w := f.watch(Config{})
	await(t, w, "a runs", running("a"))
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	until(t, "it is told that the socket is gone", func() bool {
		return w.Err() != nil && strings.Contains(w.Err().Error(), "no such file")
	})
	other := newFakeEngine(t)
	other.path = f.path
	other.set("a", fakeContainer{Name: "after", Running: true})
	other.start()
	await(t, w, "what the engine at the new socket says", func(s *Snapshot) bool { return s.ByName("after") != nil })
}

// An engine that hangs is noticed although nothing is asked of it.
func TestPing(t *testing.T) {
	t.Parallel()
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.start()
	w := f.watch(Config{ResyncInterval: time.Hour}, func(e *engine) { e.listTimeout = 200 * time.Millisecond })
	await(t, w, "a runs", running("a"))
	hang := make(chan struct{})
	f.update(func() { f.hang = hang })
	until(t, "it is told that the engine hangs", func() bool {
		return w.Err() != nil && strings.Contains(w.Err().Error(), "pinging: no answer within 200ms")
	})
	close(hang)
	until(t, "the engine is back", func() bool { return w.Err() == nil })
}
