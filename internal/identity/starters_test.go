package identity

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
)

func TestSandbox(t *testing.T) {
	const folder = "/var/run/docker/netns/"
	web := running("c1", "web", "172.17.0.2", nil)
	web.SandboxKey = folder + "aaaaaaaaaaaa"
	self := running("self", "ambassadord", "172.17.0.9", nil)
	self.SandboxKey = folder + "bbbbbbbbbbbb"
	table := build(nil, web, self)
	if n, known := table.Sandbox("aaaaaaaaaaaa"); !known || n == nil || n != table.Owned("c1") {
		t.Errorf("the sandbox of web = %v, %t", n, known)
	}
	if n, known := table.Sandbox("bbbbbbbbbbbb"); !known || n != nil {
		t.Errorf("our own sandbox = %v, %t; want it known and nobody's", n, known)
	}
	if n, known := table.Sandbox("cccccccccccc"); known {
		t.Errorf("a new sandbox = %v; want it not known", n)
	}
}

func TestSandboxFolder(t *testing.T) {
	at := func(id, key, mode string, second int64) *dockerd.Container {
		return &dockerd.Container{ID: id, Name: id, Running: true, NetworkMode: mode, SandboxKey: key, StartedAt: time.Unix(second, 0)}
	}
	old, young := at("c1", "/run/docker/netns/aaaaaaaaaaaa", "default", 1), at("c2", "/elsewhere/netns/bbbbbbbbbbbb", "none", 2)
	for name, test := range map[string]struct {
		containers []*dockerd.Container
		want       string
	}{
		"nobody":          {nil, ""},
		"one":             {[]*dockerd.Container{old}, "/run/docker/netns"},
		"the last":        {[]*dockerd.Container{young, old}, "/elsewhere/netns"},
		"the host's":      {[]*dockerd.Container{at("c3", "/other/default", "host", 3), old}, "/run/docker/netns"},
		"one that has no": {[]*dockerd.Container{at("c4", "", "none", 4), old}, "/run/docker/netns"},
	} {
		if got := build(nil, test.containers...).SandboxFolder(); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestStarters(t *testing.T) {
	declares := map[string]string{"connect.1": "x:1"}
	resting := func(id, mode string, labels map[string]string) *dockerd.Container {
		return &dockerd.Container{ID: id, Name: id, NetworkMode: mode, Labels: labels}
	}
	sandboxed := func(id, key string) *dockerd.Container {
		c := running(id, id, "172.17.0.2", declares)
		c.SandboxKey = key
		return c
	}
	containers := []*dockerd.Container{
		resting("created", "default", declares),
		resting("on-no-network", "none", declares),
		resting("declares-nothing", "default", nil),
		resting("on-the-host", "host", declares),
		resting("joins", "container:created", declares),
		sandboxed("runs", "/netns/mounted"),
		sandboxed("ended-just-now", "/netns/unmounted"),
		running("of-another-engine", "x", "172.17.0.3", declares),
		{ID: "self", Name: "self", NetworkMode: "default", Labels: declares},
	}
	mounted := func(path string) bool { return path == "/netns/mounted" }
	names := func(table *Table) (names []string) {
		for _, c := range table.Starters(mounted) {
			names = append(names, c.Container.ID)
		}
		return names
	}
	want := []string{"created", "ended-just-now", "on-no-network"}
	table := build(nil, containers...)
	if diff := cmp.Diff(want, names(table)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	// What a container declares is read once in its life, running or not.
	parsed := 0
	parse := func(text string) (resolver.Target, error) { parsed++; return resolver.Parse(text) }
	started := sandboxed("created", "/netns/mounted")
	containers[0] = started
	again := Build(dockerd.NewSnapshot(containers...), table, "self", nil, parse)
	if parsed > 0 {
		t.Errorf("%d targets were parsed again", parsed)
	}
	if diff := cmp.Diff(want[1:], names(again)); diff != "" {
		t.Errorf("after one has started: -want +got:\n%s", diff)
	}
}
