package dockerd

import (
	"fmt"
	"slices"
	"testing"

	docker "github.com/fsouza/go-dockerclient"
)

func TestResyncInspectsWhatMayHaveChanged(t *testing.T) {
	const n = 50
	f := &follower{containers: map[string]*Container{}}
	var list []entry
	for i := range n {
		id := fmt.Sprint(i)
		list = append(list, entry{id: id, mark: "running"})
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

func TestEntryTellsWhatHasChanged(t *testing.T) {
	base := func() docker.APIContainers {
		return docker.APIContainers{
			ID: "a", State: "running", Status: "Up 2 hours (healthy)", Names: []string{"/db", "/web/db"},
			Networks: docker.NetworkList{Networks: map[string]docker.ContainerNetwork{
				"x": {NetworkID: "1", IPAddress: "10.0.0.2"}, "y": {NetworkID: "2", IPAddress: "10.0.1.2"},
			}},
		}
	}
	first := base()
	was := entryOf(&first)
	for what, test := range map[string]struct {
		change func(*docker.APIContainers)
		same   bool
	}{
		"time":      {func(c *docker.APIContainers) { c.Status = "Up 3 hours (healthy)" }, true},
		"order":     {func(c *docker.APIContainers) { c.Names = []string{"/web/db", "/db"} }, true},
		"health":    {func(c *docker.APIContainers) { c.Status = "Up 2 hours (unhealthy)" }, false},
		"no health": {func(c *docker.APIContainers) { c.Status = "Up 2 hours" }, false},
		"state":     {func(c *docker.APIContainers) { c.State = "exited" }, false},
		"name":      {func(c *docker.APIContainers) { c.Names[0] = "/postgres" }, false},
		"address":   {func(c *docker.APIContainers) { c.Networks.Networks["x"] = docker.ContainerNetwork{NetworkID: "1"} }, false},
		"network":   {func(c *docker.APIContainers) { delete(c.Networks.Networks, "y") }, false},
	} {
		c := base()
		test.change(&c)
		if is := entryOf(&c); (is.mark == was.mark) != test.same || is.young {
			t.Errorf("%s: %+v after %+v, want the same mark: %t", what, is, was, test.same)
		}
	}
	c := base()
	if c.Status = "Up 41 seconds (healthy)"; !entryOf(&c).young {
		t.Error("up for seconds is not young")
	}
}
