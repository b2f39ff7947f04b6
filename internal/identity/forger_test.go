package identity

import (
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

func TestForger(t *testing.T) {
	with := func(c *dockerd.Container, raw, admin bool) *dockerd.Container {
		c.NetRaw, c.NetAdmin = raw, admin
		return c
	}
	harmless := func() *dockerd.Container { return running("c1", "web", "172.17.0.2", nil) }
	elsewhere := running("c2", "far", "172.18.0.2", nil)
	elsewhere.Networks[0].Name, elsewhere.Networks[0].ID = "other", "n2"
	sidecar := &dockerd.Container{ID: "c3", Name: "sidecar", Running: true, NetworkMode: "container:c1"}
	for name, test := range map[string]struct {
		containers []*dockerd.Container
		want       string
	}{
		"alone":                 {[]*dockerd.Container{harmless()}, ""},
		"itself":                {[]*dockerd.Container{with(harmless(), true, false)}, "web"},
		"who joined it":         {[]*dockerd.Container{harmless(), with(sidecar, true, false)}, "sidecar"},
		"a neighbour":           {[]*dockerd.Container{harmless(), with(running("c2", "raw", "172.17.0.3", nil), true, false)}, "raw"},
		"an administrator":      {[]*dockerd.Container{harmless(), with(running("c2", "admin", "172.17.0.3", nil), false, true)}, "admin"},
		"a harmless neighbour":  {[]*dockerd.Container{harmless(), running("c2", "other", "172.17.0.3", nil)}, ""},
		"one of other networks": {[]*dockerd.Container{harmless(), with(elsewhere, true, true)}, ""},
		"ourselves":             {[]*dockerd.Container{harmless(), with(running("self", "us", "172.17.0.9", nil), true, true)}, ""},
	} {
		got := ""
		if c := build(nil, test.containers...).Forger(netip.MustParseAddr("::ffff:172.17.0.2")); c != nil {
			got = c.Name
		}
		if got != test.want {
			t.Errorf("%s: forger %q, want %q", name, got, test.want)
		}
	}
	if c := build(nil, with(harmless(), true, true)).Forger(netip.MustParseAddr("192.0.2.1")); c != nil {
		t.Errorf("an address that nobody has: %s", c.Name)
	}
}
