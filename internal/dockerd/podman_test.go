package dockerd

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// emitPodman sends an event as Podman 4 does: to those who asked for the name that
// it has there, and with the container as its actor, whatever its type.
func (f *fakeEngine) emitPodman(kind, name, action, id string) {
	f.mu.Lock()
	wanted := slices.Contains(f.asked["type"], kind) && slices.Contains(f.asked["event"], name)
	f.mu.Unlock()
	if wanted {
		f.emitRaw(fmt.Sprintf(`{"status":%q,"id":%q,"Type":%q,"Action":%q,"Actor":{"ID":%q,
			"Attributes":{"containerExitCode":"0","image":"","name":"a","podId":""}},"scope":"local","time":1}`, action, id, kind, action, id))
	}
}

func TestPodmanEvents(t *testing.T) {
	f := newFakeEngine(t)
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", func(*Snapshot) bool { return true })

	f.set("a", fakeContainer{Name: "a", Running: true})
	f.emitPodman("container", "start", "start", "a")
	await(t, w, "a runs", running("a"))
	f.set("a", fakeContainer{Name: "a"})
	f.emitPodman("container", "died", "die", "a")
	await(t, w, "a has died", stopped("a"))

	// The fake's containers have no networks: any other change shows that it was asked.
	for _, action := range []string{"connect", "disconnect"} {
		f.set("a", fakeContainer{Name: action})
		f.emitPodman("network", action, action, "a")
		await(t, w, "after "+action, func(s *Snapshot) bool { return s.ByName(action) != nil })
	}

	f.update(func() { delete(f.containers, "a") })
	f.emitPodman("container", "remove", "remove", "a")
	await(t, w, "a is gone", func(s *Snapshot) bool { return s.Get("a") == nil })
}

// Podman's stream looks for events four times a second; a container that is about to start is
// asked for at once. Nobody else's stream is late.
func TestCatchUp(t *testing.T) {
	note := func(f *fakeEngine, id string) {
		f.update(func() {
			f.noted = append(f.noted, fmt.Sprintf(`{"Type":"container","Action":"create","Actor":{"ID":%q,"Attributes":{"name":%q,"connect.80":"x:80"}}}`, id, id))
		})
	}
	t.Run("Podman", func(t *testing.T) {
		f := newFakeEngine(t)
		f.version = `{"Components":[{"Name":"Podman Engine"}]}`
		f.onInspect = func(http.ResponseWriter, string) bool { <-f.done; return false } // it is starting them
		f.start()
		w := f.watch(Config{})
		await(t, w, "the first", func(*Snapshot) bool { return true })
		for end := time.Now().Add(patience); !w.late.Load(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it was not found out that it is Podman")
			}
		}
		note(f, "gone")
		f.update(func() {
			f.noted = append(f.noted, `{"Type":"container","Action":"remove","Actor":{"ID":"gone","Attributes":{}}}`)
		})
		for _, id := range []string{"a", "b"} {
			note(f, id)
			w.CatchUp()
			c := await(t, w, id+" is announced", func(s *Snapshot) bool { return s.Get(id) != nil }).Get(id)
			if !c.Announced || c.Labels["connect.80"] != "x:80" {
				t.Errorf("%+v", c)
			}
		}
		if w.Snapshot().Get("gone") != nil {
			t.Error("a container that is gone was made known")
		}
	})
	t.Run("Docker", func(t *testing.T) {
		f := newFakeEngine(t)
		f.version = `{"Components":[{"Name":"Engine"}]}`
		f.start()
		w := f.watch(Config{})
		await(t, w, "the first", func(*Snapshot) bool { return true })
		note(f, "a")
		w.CatchUp()
		f.set("b", fakeContainer{Name: "b"})
		f.emit("start", "b")
		await(t, w, "b is there", func(s *Snapshot) bool { return s.Get("b") != nil })
		f.update(func() {
			if f.catchUps > 0 {
				t.Error("it was asked for what its stream tells at once")
			}
		})
	})
}
