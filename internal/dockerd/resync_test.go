package dockerd

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestResyncInspectsWhatMayHaveChanged(t *testing.T) {
	const n = 50
	f := &eventFollower{containers: map[string]*Container{}}
	var list []listedContainer
	for i := range n {
		id := fmt.Sprint(i)
		list = append(list, listedContainer{id: id, mark: "running"})
		f.containers[id] = &Container{ID: id}
	}
	if got := f.suspects(list); len(got) != n {
		t.Fatalf("the first list after a connect: %d suspects, want all %d", len(got), n)
	}
	counts := map[string]int{}
	for range shares {
		got := f.suspects(list)
		if want := 3; len(got) > want {
			t.Fatalf("nothing has changed: %d suspects, want %d", len(got), want)
		}
		for _, id := range got {
			counts[id]++
		}
	}
	if len(counts) != n {
		t.Errorf("%d of %d were inspected within %d lists", len(counts), n, shares)
	}

	for _, test := range []struct {
		what   string
		change func()
	}{
		{"another mark", func() { list[7].mark = "exited" }},
		{"young", func() { list[7].young = true }},
		{"not known", func() { delete(f.containers, "7") }},
		{"of health that the engine may change without an event", func() { f.containers["7"] = &Container{ID: "7", HealthUnsure: true} }},
		{"only announced", func() { f.containers["7"] = &Container{ID: "7", Announced: true} }},
	} {
		for slices.Contains(f.suspects(list), "7") {
			continue // its turn
		}
		test.change()
		if got := f.suspects(list); !slices.Contains(got, "7") {
			t.Errorf("%s: suspects %v, want 7 among them", test.what, got)
		}
		list[7].young, f.containers["7"] = false, &Container{ID: "7"}
	}
}

// reconnected is a Watcher that has lost the engine whose container a was at the socket, and is
// connected to what other makes of it. That engine fails to show a.
func reconnected(t *testing.T, log *records, other func(f *fakeEngine, log *records)) *Watcher {
	t.Helper()
	f := newFakeEngine(t)
	f.engineID = "first"
	f.set("a", fakeContainer{Name: "before", Running: true})
	f.start()
	w := f.watch(Config{Log: slog.New(log), ResyncInterval: time.Hour})
	await(t, w, "a runs", running("a"))
	f.stop()
	f.onInspect = func(w http.ResponseWriter, id string) bool {
		if id == "a" {
			http.Error(w, `{"message":"broken"}`, http.StatusInternalServerError)
		}
		return id != "a"
	}
	f.set("b", fakeContainer{Name: "new", Running: true})
	other(f, log)
	f.start()
	return w
}

const anotherEngine = "another docker engine is at the endpoint"

// Nothing that another engine has said stays, whatever this one fails to say.
func TestAnotherEngine(t *testing.T) {
	for name, other := range map[string]func(f *fakeEngine, log *records){
		"which does not show a container of the same ID": func(f *fakeEngine, _ *records) { f.engineID = "second" },
		"which gives no list": func(f *fakeEngine, log *records) {
			f.engineID = "second"
			f.onList = func(w http.ResponseWriter) bool {
				until(f.t, "the engine is known to be another", func() bool { return log.of(anotherEngine) > 0 })
				http.Error(w, "", http.StatusInternalServerError)
				return false
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log records
			w := reconnected(t, &log, other)
			await(t, w, "a is gone", func(s *Snapshot) bool { return s.Get("a") == nil })
			if n := log.of(anotherEngine); n != 1 {
				t.Errorf("%d log records say so", n)
			}
		})
	}
}

// What is known stays where the engine is the same, where it cannot be asked which it is, and
// where it has another ID each time.
func TestTheSameEngine(t *testing.T) {
	for name, other := range map[string]func(f *fakeEngine, log *records){
		"the same ID":   func(*fakeEngine, *records) {},
		"no ID":         func(f *fakeEngine, _ *records) { f.engineID = "" },
		"no ID of long": func(f *fakeEngine, _ *records) { f.engineID, f.manyIDs = "second", true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log records
			w := reconnected(t, &log, other)
			s := await(t, w, "b runs", running("b"))
			if c := s.Get("a"); c == nil || c.Name != "before" {
				t.Errorf("a is %+v; want it as it was", c)
			}
			if n := log.of(anotherEngine); n != 0 {
				t.Errorf("%d log records say that it is another engine", n)
			}
		})
	}
}

// An engine that has lost its socket to another still answers on the connections that it has: the
// list must not be asked of it.
func TestNoConnectionOfBeforeIsUsed(t *testing.T) {
	f := newFakeEngine(t)
	f.engineID = "first"
	f.set("a", fakeContainer{Name: "before", Running: true})
	f.start()
	w := f.watch(Config{ResyncInterval: time.Hour})
	await(t, w, "a runs", running("a"))
	other := newFakeEngine(t)
	other.path, other.engineID = f.path+".new", "second"
	other.set("b", fakeContainer{Name: "new", Running: true})
	other.start()
	f.replaceBy(other)
	f.closeStreams()
	await(t, w, "b runs, and a is gone", func(s *Snapshot) bool { return s.Get("b") != nil && s.Get("a") == nil })
}
