package dockerd

import (
	"fmt"
	"slices"
	"testing"
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
