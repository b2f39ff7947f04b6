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
	// Late news of what is known changes nothing.
	f.emitRaw(`{"Type":"container","Action":"create","Actor":{"ID":"a","Attributes":{"name":"other"}}}`)
	f.set("b", fakeContainer{Name: "b"})
	f.emit("start", "b")
	if s := await(t, w, "b is there", func(s *Snapshot) bool { return s.Get("b") != nil }); s.Get("a") != c {
		t.Errorf("a became %+v", s.Get("a"))
	}
}

// What its environment declares the engine has written down before it announces a
// container.
func TestCreatedContainerHasTheEnvironmentOnRecord(t *testing.T) {
	f := newFakeEngine(t)
	f.root = t.TempDir()
	f.onInspect = func(http.ResponseWriter, string) bool { <-f.done; return false } // it is starting them
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", func(*Snapshot) bool { return true })
	for end := time.Now().Add(patience); w.records.Load() == nil; time.Sleep(time.Millisecond) {
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
		if got := w.recorded(id).env; !slices.Equal(got, want) {
			t.Errorf("on record of %q: %v, want %v", id, got, want)
		}
	}
	f.emitRaw(fmt.Sprintf(`{"Type":"container","Action":"create","Actor":{"ID":%q,"Attributes":{"name":"web"}}}`, a))
	c := await(t, w, "a is announced", func(s *Snapshot) bool { return s.Get(a) != nil }).Get(a)
	if want := []string{"PATH=/bin", "BACKEND_80=x:80"}; !c.Announced || !slices.Equal(c.Env, want) {
		t.Errorf("announced: %+v; want the environment %v", c, want)
	}
}

// Whose network namespace a container is going to join the engine has written down as well,
// or else its list says while it starts the container.
func TestCreatedContainerIsKnownToJoinAnother(t *testing.T) {
	const mode = "container:owner"
	for name, onRecord := range map[string]bool{"on record": true, "by the list": false} {
		t.Run(name, func(t *testing.T) {
			f := newFakeEngine(t)
			f.onInspect = func(http.ResponseWriter, string) bool { <-f.done; return false } // it is starting it
			id := strings.Repeat("a", idLen)
			if onRecord {
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
			if onRecord {
				until(t, "the engine's folder is known", func() bool { return w.records.Load() != nil })
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
