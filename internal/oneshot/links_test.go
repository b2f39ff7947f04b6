package oneshot

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/dockerd"
)

func TestLinksOfOurOwnContainer(t *testing.T) {
	snapshot := dockerd.NewSnapshot(
		&dockerd.Container{
			ID: "self", Name: "ambassador", Running: true,
			Links:    []dockerd.Link{{Container: "redis-1", Alias: "redis"}, {Container: "gone", Alias: "gone"}},
			Networks: []dockerd.Network{{Name: "u", Links: []dockerd.Link{{Container: "web", Alias: "http"}}}},
		},
		&dockerd.Container{ID: "r", Name: "redis-1", Running: true, ExposedPorts: []uint16{6379}},
		&dockerd.Container{ID: "w", Name: "web", Running: true, ExposedPorts: []uint16{80, 443}},
	)
	got := linkListeners(snapshot, "self")
	want := []config.Listener{
		{Address: ":443", Target: "http:443"},
		{Address: ":6379", Target: "redis:6379"},
		{Address: ":80", Target: "http:80"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLinksWithoutAPort says of each why nothing is known, and what to do.
func TestLinksWithoutAPort(t *testing.T) {
	snapshot := dockerd.NewSnapshot(
		&dockerd.Container{ID: "self", Name: "ambassador", Links: []dockerd.Link{
			{Container: "gone", Alias: "old"}, {Container: "redis-1", Alias: "redis"}, {Container: "bare", Alias: "db"},
		}},
		&dockerd.Container{ID: "r", Name: "redis-1", ExposedPorts: []uint16{6379}},
		&dockerd.Container{ID: "b", Name: "bare"},
	)
	said := map[string]string{}
	for _, l := range linksOf(snapshot, "self") {
		said[l.alias] = l.why
		if l.why != "" && l.fix == "" {
			t.Errorf("%s: nothing to do about %q", l.alias, l.why)
		}
	}
	if said["redis"] != "" || !strings.Contains(said["old"], `"gone"`) || !strings.Contains(said["db"], "container bare declares no TCP port") {
		t.Errorf("it says %q", said)
	}
}

func TestNamesInTheHostsFile(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte(strings.Join([]string{
		"127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost", "ff02::1 ip6-allnodes", "fe00::0 ip6-localnet", "# 10.0.0.1 comment",
		"172.17.0.2 redis 3fa29 redis-1 # the link", "172.17.0.3\tdb", "172.17.0.4 " + containerproc.Hostname(), "no address", "",
	}, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := linkedIn(hosts); !slices.Equal(got, []string{"redis", "db"}) {
		t.Errorf("%q; want the two links", got)
	}
	if fix := unaskedFix(hosts); !strings.Contains(fix, "redis, db") || !strings.Contains(fix, "docker.sock") {
		t.Errorf("the hint is %q", fix)
	}
	if got := linkedIn(hosts + "-none"); got != nil {
		t.Errorf("without a file: %q", got)
	}
}
