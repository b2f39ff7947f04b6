package dockerd

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The engine answers for no container that it is starting; its labels are known
// all the same.
func TestCreatedContainerIsKnownBeforeItIsInspected(t *testing.T) {
	f := newFakeEngine(t)
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", func(*Snapshot) bool { return true })

	started := make(chan struct{})
	f.update(func() {
		f.onInspect = func(_ http.ResponseWriter, id string) bool {
			if id == "a" {
				<-started
			}
			return true
		}
	})
	f.set("a", fakeContainer{Name: "web", Running: true})
	f.emitRaw(`{"Type":"container","Action":"create","Actor":{"ID":"a",
		"Attributes":{"image":"my/web","name":"web","connect.80":"x:80"}}}`)
	c := await(t, w, "a is announced", func(s *Snapshot) bool { return s.Get("a") != nil }).Get("a")
	if !c.Announced || c.Running || c.Name != "web" || c.Image != "my/web" || !maps.Equal(c.Labels, map[string]string{"connect.80": "x:80"}) {
		t.Errorf("announced: %+v; want its name, image and labels", c)
	}

	close(started)
	c = await(t, w, "a is inspected", running("a")).Get("a")
	if c.Announced {
		t.Error("it is still taken for one that was only announced")
	}
	// A late event of what is known changes nothing.
	f.emitRaw(`{"Type":"container","Action":"create","Actor":{"ID":"a","Attributes":{"name":"other"}}}`)
	f.set("b", fakeContainer{Name: "b"})
	f.emit("start", "b")
	if s := await(t, w, "b is there", func(s *Snapshot) bool { return s.Get("b") != nil }); s.Get("a") != c {
		t.Errorf("a became %+v", s.Get("a"))
	}
}

// What its environment declares the engine has saved before it announces a
// container.
func TestCreatedContainerHasTheSavedEnvironment(t *testing.T) {
	f := newFakeEngine(t)
	f.root = t.TempDir()
	f.onInspect = func(http.ResponseWriter, string) bool { <-f.done; return false } // it is starting them
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", func(*Snapshot) bool { return true })
	for end := time.Now().Add(patience); w.savedConfigs.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the engine was not asked for its folder")
		}
	}
	a, b := strings.Repeat("a", idLen), strings.Repeat("b", idLen)
	for path, text := range map[string]string{
		a:               `{"ID":"x","Config":{"Env":["PATH=/bin","BACKEND_80=x:80"]}}`,
		b:               `{"Config":`, // not what it was
		"../elsewhere":  `{"Config":{"Env":["BACKEND_1=x:1"]}}`,
		"../containers": `{"Config":{"Env":["BACKEND_1=x:1"]}}`,
	} {
		dir := filepath.Join(f.root, "containers", path)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.v2.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string][]string{
		a: {"PATH=/bin", "BACKEND_80=x:80"}, b: nil, strings.Repeat("c", idLen): nil, "../elsewhere": nil, "": nil, ".": nil,
	} {
		if got := w.savedOf(id).env; !slices.Equal(got, want) {
			t.Errorf("saved of %q: %v, want %v", id, got, want)
		}
	}
	f.emitRaw(fmt.Sprintf(`{"Type":"container","Action":"create","Actor":{"ID":%q,"Attributes":{"name":"web"}}}`, a))
	c := await(t, w, "a is announced", func(s *Snapshot) bool { return s.Get(a) != nil }).Get(a)
	if want := []string{"PATH=/bin", "BACKEND_80=x:80"}; !c.Announced || !slices.Equal(c.Env, want) {
		t.Errorf("announced: %+v; want the environment %v", c, want)
	}
}

// Whose network namespace a container is going to join the engine has saved as well,
// or else its list says while it starts the container.
func TestCreatedContainerIsKnownToJoinAnother(t *testing.T) {
	const mode = "container:owner"
	for name, saved := range map[string]bool{"saved": true, "by the list": false} {
		t.Run(name, func(t *testing.T) {
			f := newFakeEngine(t)
			f.onInspect = func(http.ResponseWriter, string) bool { <-f.done; return false } // it is starting it
			id := strings.Repeat("a", idLen)
			if saved {
				f.root = t.TempDir()
				dir := filepath.Join(f.root, "containers", id)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "hostconfig.json"), []byte(`{"NetworkMode":"`+mode+`"}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f.start()
			w := f.watch(Config{})
			await(t, w, "the first", func(*Snapshot) bool { return true })
			if saved {
				until(t, "the engine's folder is known", func() bool { return w.savedConfigs.Load() != nil })
			} else {
				f.set(id, fakeContainer{NetworkMode: mode})
			}
			f.emitRaw(fmt.Sprintf(`{"Type":"container","Action":"create","Actor":{"ID":%q,"Attributes":{"name":"web"}}}`, id))
			c := await(t, w, "its mode is known", func(s *Snapshot) bool { c := s.Get(id); return c != nil && c.NetworkMode != "" }).Get(id)
			if c.NetworkMode != mode || !c.Announced || !c.Joins() {
				t.Errorf("announced: %+v; want that it joins %s", c, mode)
			}
		})
	}
}

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
