package dockerd

import (
	"log/slog"
	"net/http"
	"testing"
	"time"
)

// reconnected is a Watcher that has lost the engine whose container a was at the socket, and is
// connected to what other makes of it. That engine fails to show a.
func reconnected(t *testing.T, log *records, other func(f *fakeEngine)) *Watcher {
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
	other(f)
	f.start()
	return w
}

const anotherEngine = "another docker engine is at the endpoint"

// Nothing that another engine has said stays, whatever this one fails to say.
func TestAnotherEngine(t *testing.T) {
	for name, other := range map[string]func(f *fakeEngine){
		"which does not show a container of the same ID": func(f *fakeEngine) { f.engineID = "second" },
		"which gives no list": func(f *fakeEngine) {
			f.engineID = "second"
			f.onList = func(w http.ResponseWriter) bool {
				f.until("it is known which engine this is", func() bool { return f.identified >= 2 })
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
	for name, other := range map[string]func(f *fakeEngine){
		"the same ID":   func(*fakeEngine) {},
		"no ID":         func(f *fakeEngine) { f.engineID = "" },
		"no ID of long": func(f *fakeEngine) { f.engineID, f.manyIDs = "second", true },
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
