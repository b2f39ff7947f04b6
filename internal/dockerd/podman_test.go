package dockerd

import (
	"fmt"
	"slices"
	"testing"
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
