package dockerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestSnapshotFollowsEvents(t *testing.T) {
	f := newFakeEngine(t)
	f.set("b", fakeContainer{Name: "web", Running: true})
	f.set("a", fakeContainer{Name: "db"})
	f.start()
	w := f.watch(Config{})

	first := await(t, w, "the first", func(*Snapshot) bool { return true })
	if got := first.Containers(); len(got) != 2 || got[0].ID != "a" || got[1].ID != "b" {
		t.Fatalf("first snapshot: %s, want a and b, complete", describe(first))
	}
	if err := w.Err(); err != nil {
		t.Errorf("Err: %v while connected", err)
	}

	f.set("a", fakeContainer{Name: "db", Running: true})
	f.emit("start", "a")
	started := await(t, w, "a runs", running("a"))
	if started.Get("b") != first.Get("b") {
		t.Error("b did not change and is another pointer")
	}
	if first.Get("a").Running {
		t.Error("the first snapshot changed")
	}

	f.set("b", fakeContainer{Name: "web"})
	f.emit("die", "b")
	await(t, w, "b has stopped", stopped("b"))

	f.update(func() { delete(f.containers, "b") })
	f.emit("destroy", "b")
	await(t, w, "b is gone", func(s *Snapshot) bool { return s.Get("b") == nil })

	f.set("a", fakeContainer{Name: "renamed", Running: true})
	f.emitRaw(`{"Type":"network","Action":"connect","Actor":{"ID":"net","Attributes":{"container":"a"}}}`)
	await(t, w, "a network event has a inspected", func(s *Snapshot) bool { return s.ByName("renamed") != nil })
}

func TestEventIsNotBelieved(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.start()
	w := f.watch(Config{})
	before := await(t, w, "a runs", running("a"))

	// A restart whose events arrive in the wrong order: the container runs.
	f.emit("start", "a")
	f.emit("die", "a")
	f.set("b", fakeContainer{Name: "after", Running: true})
	f.emit("start", "b")
	f.until("a is inspected again", func() bool { return f.inspects["a"] >= 2 })
	after := await(t, w, "b runs", running("b"))
	if after.Get("a") != before.Get("a") {
		t.Errorf("a: %+v, want it as it was: running", after.Get("a"))
	}
}

func TestEventDuringInspectIsNotLost(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db"})
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", func(*Snapshot) bool { return true })

	entered, release := make(chan struct{}), make(chan struct{})
	f.update(func() {
		f.onInspect = func(w http.ResponseWriter, _ string) bool {
			f.update(func() { f.onInspect = nil })
			_, _ = fmt.Fprint(w, `{"Id":"a","Name":"/stale"}`) // read before the change below
			close(entered)
			<-release
			return false
		}
	})
	f.emit("start", "a")
	<-entered
	f.set("a", fakeContainer{Name: "fresh", Running: true})
	f.emit("rename", "a")
	f.emit("start", "b") // unknown: its inspect shows that the events before it were read
	f.until("b is inspected", func() bool { return f.inspects["b"] == 1 })
	close(release)
	await(t, w, "the second event's inspect", func(s *Snapshot) bool { return s.ByName("fresh") != nil })
}

func TestResyncFindsWhatNoEventTold(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db"})
	f.set("b", fakeContainer{Name: "web"})
	f.start()
	w := f.watch(Config{ResyncInterval: 10 * time.Millisecond})
	await(t, w, "the first", func(*Snapshot) bool { return true })
	f.update(func() {
		f.containers["a"] = &fakeContainer{Name: "db", Running: true}
		f.containers["c"] = &fakeContainer{Name: "new", Running: true}
		delete(f.containers, "b")
	})
	await(t, w, "a runs, b is gone, c is new", func(s *Snapshot) bool {
		return running("a")(s) && running("c")(s) && s.Get("b") == nil
	})
}

func TestNothingIsPublishedWithoutChange(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.start()
	w := f.watch(Config{ResyncInterval: 5 * time.Millisecond})
	first := await(t, w, "the first", func(*Snapshot) bool { return true })
	f.emit("start", "a")
	f.until("five resyncs", func() bool { return f.inspects["a"] >= 6 })
	if w.Snapshot() != first {
		t.Error("a new snapshot although nothing changed")
	}
}

func TestNoContainersIsASnapshotToo(t *testing.T) {
	f := newFakeEngine(t)
	f.start()
	w := f.watch(Config{})
	s := await(t, w, "the first", func(*Snapshot) bool { return true })
	if n := len(s.Containers()); n != 0 {
		t.Errorf("%d containers, want none", n)
	}
}

func TestContainerYoungerThanTheListStays(t *testing.T) {
	f := newFakeEngine(t)
	entered, release := make(chan struct{}), make(chan struct{})
	f.onList = func(http.ResponseWriter) bool { // runs after the IDs were taken
		close(entered)
		<-release
		f.update(func() { f.onList = nil })
		return true
	}
	f.start()
	w := f.watch(Config{})
	<-entered
	f.set("a", fakeContainer{Name: "young", Running: true})
	f.emit("start", "a")
	f.until("a is inspected", func() bool { return f.inspects["a"] == 1 && f.inspecting == 0 })
	close(release)
	s := await(t, w, "a runs", running("a"))
	f.until("the list is answered", func() bool { return f.listed == 1 })
	if s.Get("a") == nil || w.Snapshot().Get("a") == nil {
		t.Error("a is missing: the older list won over the event")
	}
}

func TestContainerGoneBetweenListAndInspect(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "brief"})
	f.set("b", fakeContainer{Name: "web", Running: true})
	f.onInspect = func(w http.ResponseWriter, id string) bool {
		if id == "a" {
			http.Error(w, `{"message":"No such container: a"}`, http.StatusNotFound)
		}
		return id != "a"
	}
	f.start()
	w := f.watch(Config{})
	s := await(t, w, "the first", func(*Snapshot) bool { return true })
	if s.Get("a") != nil || s.Get("b") == nil {
		t.Errorf("snapshot: %s, want b alone", describe(s))
	}
	if err := w.Err(); err != nil {
		t.Errorf("Err: %v, want nil", err)
	}
}

func TestThousandContainers(t *testing.T) {
	const n = 1000
	f := newFakeEngine(t)
	for i := range n {
		f.set(fmt.Sprintf("%04d", i), fakeContainer{Name: fmt.Sprintf("c%d", i), Running: true})
	}
	f.start()
	w := f.watch(Config{})
	s := await(t, w, "the first", func(*Snapshot) bool { return true })
	if got := len(s.Containers()); got != n {
		t.Errorf("first snapshot has %d containers, want %d", got, n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mostAtOnce > inspectLimit {
		t.Errorf("%d inspects at once, want at most %d", f.mostAtOnce, inspectLimit)
	}
}

func TestEngineAwayAtStart(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	log := &records{}
	w := f.watch(Config{Log: slog.New(log)})
	until(t, "a failure", func() bool { return w.Err() != nil })
	if err := w.Err(); !strings.Contains(err.Error(), f.path) || hint.Of(err) == "" {
		t.Errorf("Err: %q with hint %q, want the endpoint and a hint", err, hint.Of(err))
	}
	if w.Snapshot() != nil {
		t.Error("a snapshot of an engine that never answered")
	}
	f.start()
	await(t, w, "a runs", running("a"))
	if err := w.Err(); err != nil {
		t.Errorf("Err: %v once connected", err)
	}
	if never, reached := log.of("not reached yet"), log.of("is reached"); never != 1 || reached != 1 || log.of("lost") != 0 || log.of("back") != 0 {
		t.Errorf("%d records of an engine that was never there and %d that it is, want one each, and none of a loss", never, reached)
	}
}

func TestLastSnapshotStaysWhileTheEngineIsAway(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.set("b", fakeContainer{Name: "web", Running: true})
	f.start()
	w := f.watch(Config{})
	before := await(t, w, "the first", running("a"))
	f.stop()
	until(t, "the loss", func() bool { return w.Err() != nil })
	wantUnconfirmed(t, before, w.Snapshot())
	f.update(func() {
		f.containers["a"].Running = false
		delete(f.containers, "b")
	})
	f.start()
	await(t, w, "what happened meanwhile", func(s *Snapshot) bool { return stopped("a")(s) && s.Get("b") == nil })
}

func TestEventStreamClosedRepeatedly(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db"})
	f.dropStreams = 3
	f.start()
	w := f.watch(Config{})
	f.until("a stream that stays", func() bool { return f.opened == 4 && f.listed >= 1 })
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.emit("start", "a")
	await(t, w, "an event on the last stream", running("a"))
	until(t, "Err is nil", func() bool { return w.Err() == nil })
}

func TestGarbageOnTheEventStream(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db"})
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", func(*Snapshot) bool { return true })
	f.emitRaw("<html>")
	f.until("another stream", func() bool { return f.opened == 2 && len(f.streams) == 1 })
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.emit("start", "a")
	await(t, w, "an event on the new stream", running("a"))
}

func TestListFails(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.onList = func(w http.ResponseWriter) bool {
		http.Error(w, `{"message":"layer store is locked"}`, http.StatusInternalServerError)
		return false
	}
	f.start()
	w := f.watch(Config{})
	until(t, "a failure", func() bool { return w.Err() != nil })
	if err := w.Err(); !strings.Contains(err.Error(), "layer store is locked") {
		t.Errorf("Err: %q, want the engine's reason", err)
	}
	f.update(func() { f.onList = nil })
	await(t, w, "a runs", running("a"))
}

func TestInspectFailsForOneContainer(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "broken", Running: true})
	f.set("b", fakeContainer{Name: "web", Running: true})
	f.onInspect = func(w http.ResponseWriter, id string) bool {
		if id == "a" {
			http.Error(w, `{"message":"no space left"}`, http.StatusInternalServerError)
		}
		return id != "a"
	}
	f.start()
	log := &records{}
	w := f.watch(Config{Log: slog.New(log)})
	s := await(t, w, "the first", running("b"))
	if s.Get("a") != nil {
		t.Errorf("a: %+v, want it left out", s.Get("a"))
	}
	if err := w.Err(); err != nil {
		t.Errorf("Err: %v, want nil: the engine answers", err)
	}
	f.until("a is tried again", func() bool { return f.inspects["a"] >= 2 })
	f.update(func() { f.onInspect = nil })
	await(t, w, "a is back", running("a"))
	if n := log.of("cannot be inspected"); n != 1 {
		t.Errorf("%d log records, want one", n)
	}
}

func TestHungInspectDelaysNoOther(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "stuck", Running: true})
	f.set("b", fakeContainer{Name: "web"})
	f.start()
	w := f.watch(Config{})
	before := await(t, w, "the first", running("a"))

	release := make(chan struct{})
	defer close(release)
	f.update(func() {
		f.onInspect = func(_ http.ResponseWriter, id string) bool {
			if id == "a" {
				<-release
			}
			return true
		}
	})
	f.emit("die", "a")
	f.until("a hangs", func() bool { return f.inspecting == 1 })
	f.set("b", fakeContainer{Name: "web", Running: true})
	f.emit("start", "b")
	after := await(t, w, "b runs", running("b"))
	if after.Get("a") != before.Get("a") {
		t.Errorf("a: %+v, want what was last known of it", after.Get("a"))
	}
}

func TestHungInspectHoldsUpTheFirstSnapshotForItsTimeoutOnly(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "stuck", Running: true})
	f.set("b", fakeContainer{Name: "web", Running: true})
	release := make(chan struct{})
	defer close(release)
	f.onInspect = func(_ http.ResponseWriter, id string) bool {
		if id == "a" {
			<-release
		}
		return true
	}
	f.start()
	w := f.watch(Config{}, func(e *engine) { e.inspectTimeout = 20 * time.Millisecond })
	s := await(t, w, "the first", running("b"))
	if s.Get("a") != nil {
		t.Errorf("a: %+v, want it left out", s.Get("a"))
	}
	if err := w.Err(); err != nil {
		t.Errorf("Err: %v, want nil: the engine answers pings", err)
	}
}

func TestHungEngine(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db"})
	f.start()
	w := f.watch(Config{ResyncInterval: 10 * time.Millisecond}, func(e *engine) {
		e.listTimeout, e.inspectTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	before := await(t, w, "the first", func(*Snapshot) bool { return true })

	hang := make(chan struct{})
	f.update(func() { f.hang = hang })
	until(t, "the hang is noticed", func() bool { return w.Err() != nil })
	if err := w.Err(); !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("Err: %q, want that no answer came in time", err)
	}
	wantUnconfirmed(t, before, w.Snapshot())
	f.update(func() {
		f.hang = nil
		f.containers["a"] = &fakeContainer{Name: "db", Running: true}
	})
	close(hang)
	await(t, w, "a runs", running("a"))
	until(t, "Err is nil", func() bool { return w.Err() == nil })
}

func TestRunEndsWhateverHangs(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "stuck"})
	release := make(chan struct{})
	defer close(release)
	f.onInspect = func(http.ResponseWriter, string) bool { <-release; return true }
	f.start()
	w, err := New(Config{Endpoint: "unix://" + f.path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	f.until("an inspect hangs", func() bool { return f.inspecting == 1 })
	if err := w.Run(ctx); err == nil {
		t.Error("a second Run returned nil, want an error")
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v, want nil", err)
		}
	case <-time.After(patience / 5): // much less than the inspect's own timeout
		t.Error("Run waits for the hung inspect")
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	f := newFakeEngine(t)
	w, err := New(Config{Endpoint: "unix://" + f.path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s, err := w.Wait(ctx, nil); s != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v, %v, want its context's error", s, err)
	}
}
