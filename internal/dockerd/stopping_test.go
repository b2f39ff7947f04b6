package dockerd

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func stopping(id string) func(*Snapshot) bool {
	return func(s *Snapshot) bool { c := s.Get(id); return c != nil && c.Running && c.Stopping }
}

// signal emits the event of a signal to a container.
func (f *fakeEngine) signal(id string, number int, at time.Time) {
	f.emitRaw(fmt.Sprintf(`{"Type":"container","Action":"kill","Actor":{"ID":%q,"Attributes":{"signal":"%d"}},"timeNano":%d}`, id, number, at.UnixNano()))
}

// A container that is told to stop is marked at once, though the engine still shows
// it running; another signal, or one from before its start, means nothing.
func TestToldToStop(t *testing.T) {
	f := newFakeEngine(t)
	started := time.Now()
	f.set("a", fakeContainer{Name: "a", Running: true, StartedAt: started})
	f.set("b", fakeContainer{Name: "b", Running: true, StartedAt: started, StopSignal: "SIGQUIT"})
	f.set("c", fakeContainer{Name: "c", Running: true, StartedAt: started})
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", running("a"))

	f.signal("c", 1, started.Add(time.Second))   // SIGHUP: read your configuration
	f.signal("c", 15, started.Add(-time.Second)) // of its life before
	f.signal("b", 15, started.Add(time.Second))  // not the signal that ends it
	f.signal("a", 15, started.Add(time.Second))
	f.until("a is inspected again, and runs", func() bool { return f.inspects["a"] >= 2 && f.inspecting == 0 })
	s := await(t, w, "a is stopping", stopping("a"))
	for _, id := range []string{"b", "c"} {
		if s.Get(id).Stopping {
			t.Errorf("%s is taken to be stopping", id)
		}
	}
	f.signal("b", 3, started.Add(2*time.Second))
	await(t, w, "b is stopping", stopping("b"))
	f.signal("c", 9, started.Add(2*time.Second))
	await(t, w, "c is killed", stopping("c"))

	f.set("a", fakeContainer{Name: "a", StartedAt: started})
	f.emit("die", "a")
	await(t, w, "a has stopped", stopped("a"))
	f.set("a", fakeContainer{Name: "a", Running: true, StartedAt: started.Add(time.Minute)})
	f.emit("start", "a")
	if s := await(t, w, "a runs again", running("a")); s.Get("a").Stopping {
		t.Error("a is taken to be stopping after it was started again")
	}
}

// The mark does not wait for an inspection.
func TestToldToStopIsKnownAtOnce(t *testing.T) {
	f := newFakeEngine(t)
	started := time.Now()
	f.set("a", fakeContainer{Name: "a", Running: true, StartedAt: started})
	f.start()
	w := f.watch(Config{ResyncInterval: time.Hour})
	await(t, w, "the first", running("a"))
	held := make(chan struct{})
	f.update(func() {
		f.onInspect = func(http.ResponseWriter, string) bool { <-held; return true }
	})
	defer close(held)
	f.signal("a", 15, started.Add(time.Second))
	await(t, w, "a is stopping", stopping("a"))
}

// A container that the signal did not end is believed again.
func TestToldToStopAndRunsOn(t *testing.T) {
	c := &Container{ID: "a", Running: true, StartedAt: time.Now().Add(-time.Hour)}
	f := &eventFollower{killed: map[string]kill{"a": {signal: 15, at: time.Now(), received: time.Now()}}}
	if !f.isStopping(c) {
		t.Error("a container that was just told to stop is not taken to be stopping")
	}
	f.killed["a"] = kill{signal: 15, at: time.Now().Add(-2 * believedStopping), received: time.Now().Add(-2 * believedStopping)}
	if f.isStopping(c) {
		t.Error("a container that runs on long after is still taken to be stopping")
	}
}
