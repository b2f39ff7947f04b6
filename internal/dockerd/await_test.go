package dockerd

import (
	"testing"
	"time"
)

// Containers start with the engine, before its first answer.
func TestEngineIsSeenToStart(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	w, err := New(Config{Endpoint: "unix://" + f.path})
	if err != nil {
		t.Fatal(err)
	}
	w.minBackoff = time.Hour
	runWatcher(t, w)
	until(t, "a failure", func() bool { return w.Err() != nil })
	f.start()
	await(t, w, "a runs", running("a"))
}
