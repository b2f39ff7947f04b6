package dockerd

import (
	"maps"
	"net/http"
	"testing"
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
