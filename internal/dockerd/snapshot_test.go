package dockerd

import (
	"fmt"
	"testing"
)

func TestNetnsOwner(t *testing.T) {
	sharing := func(id, name, mode string) *Container { return &Container{ID: id, Name: name, NetworkMode: mode} }
	containers := []*Container{
		sharing("aaa1", "own", "bridge"),
		sharing("aaa2", "byid", "container:aaa1"),
		sharing("bbb1", "byname", "container:own"),
		sharing("bbb2", "byslash", "container:/own"),
		sharing("bbb3", "byprefix", "container:ccc"),
		sharing("bbb4", "ambiguous", "container:aaa"),
		sharing("ccc1", "chain", "container:byname"),
		sharing("ddd1", "orphan", "container:fff"),
		sharing("ddd2", "loop", "container:ddd2"),
		sharing("ddd3", "nobody", "container:"),
	}
	// hop8 is eight hops from its owner, hop9 nine.
	containers = append(containers, sharing("h0", "hop0", "host"))
	for i := 1; i <= 9; i++ {
		containers = append(containers, sharing(fmt.Sprintf("h%d", i), fmt.Sprintf("hop%d", i), fmt.Sprintf("container:h%d", i-1)))
	}
	s := NewSnapshot(containers...)
	for name, want := range map[string]string{
		"own": "own", "byid": "own", "byname": "own", "byslash": "own", "byprefix": "own", "ambiguous": "",
		"chain": "own", "orphan": "", "loop": "", "nobody": "", "hop8": "hop0", "hop9": "",
	} {
		owner := s.NetnsOwner(s.ByName(name))
		if got := nameOf(owner); got != want {
			t.Errorf("owner of %s: %q, want %q", name, got, want)
		}
	}
}

func nameOf(c *Container) string {
	if c == nil {
		return ""
	}
	return c.Name
}

func TestSnapshotGet(t *testing.T) {
	s := NewSnapshot(&Container{ID: "c"}, &Container{ID: "a"}, &Container{ID: "b"})
	for _, id := range []string{"a", "b", "c"} {
		if c := s.Get(id); c == nil || c.ID != id {
			t.Errorf("Get(%q): %v", id, c)
		}
	}
	for _, id := range []string{"", "aa", "d"} {
		if c := s.Get(id); c != nil {
			t.Errorf("Get(%q): %v, want nil", id, c)
		}
	}
}

func TestService(t *testing.T) {
	for _, tt := range []struct {
		labels map[string]string
		want   string
	}{
		{nil, ""},
		{map[string]string{LabelSwarmService: "stack_web"}, "stack_web"},
		{map[string]string{labelComposeService: "web", LabelSwarmService: "stack_web"}, "web"},
	} {
		if got := (&Container{Labels: tt.labels, Task: true}).Service(); got != tt.want {
			t.Errorf("Service with %v: %q, want %q", tt.labels, got, tt.want)
		}
	}
}
