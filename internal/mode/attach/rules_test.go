package attach

import (
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestOwnersReadBack: the comments of redirectPorts are read back as whose each port is.
func TestOwnersReadBack(t *testing.T) {
	const id = "3f2a5c0e9b1d77777777777777777777777777777777777777777777777777777"
	snapshot := dockerd.NewSnapshot(&dockerd.Container{
		ID: id, Name: "web-1", Running: true, NetworkMode: "bridge",
		Labels: map[string]string{"connect.6379": "redis:6379", "connect.5432": "no (good) target:x"},
	})
	n := identity.Build(snapshot, nil, "", nil, resolver.Parse).Owned(id)
	ports := redirectPorts(n)
	if len(ports) != 2 {
		t.Fatalf("ports: %v", ports)
	}
	for _, p := range ports {
		client, short, declared := identity.ParseOwner(p.Comment)
		if client != "web-1" || short != "3f2a5c0e9b1d" || declared == "" {
			t.Errorf("%q is read as %q, %q, %q", p.Comment, client, short, declared)
		}
	}
	for _, other := range []string{"", "web", "web (3f2a)", "a b (3f2a) label", "web (3f 2a) label", " (", ") ("} {
		if client, short, declared := identity.ParseOwner(other); client != "" || short != "" || declared != other {
			t.Errorf("%q is read as %q, %q, %q", other, client, short, declared)
		}
	}
}
