package attach

import (
	"net/netip"
	"slices"
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

// TestServedInside: a container's own server takes no dials where its port is declared, if it is reached by
// way of loopback.
func TestServedInside(t *testing.T) {
	snapshot := dockerd.NewSnapshot(&dockerd.Container{
		ID: "a", Name: "web-1", Running: true, NetworkMode: "bridge",
		Labels: map[string]string{"connect.6379": "redis:6379", "connect.5432": "db:5432"},
	})
	n := identity.Build(snapshot, nil, "", nil, resolver.Parse).Owned("a")
	var listening []netip.AddrPort
	for _, address := range []string{"127.0.0.1:61000", "0.0.0.0:6379", "172.17.0.2:5432", "[::1]:5432", "[::]:80", "[::ffff:127.0.0.1]:6379"} {
		listening = append(listening, netip.MustParseAddrPort(address))
	}
	want := []netip.AddrPort{listening[1], listening[3], listening[5]}
	if got := servedInside(n, listening); !slices.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}
