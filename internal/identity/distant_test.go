package identity

import (
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// TestAddressesOfDistantNetworksAreNobodys: what comes to us from an address of an overlay or a
// LAN is not the container that has it there, unless we are on that network.
func TestAddressesOfDistantNetworksAreNobodys(t *testing.T) {
	on := func(name, driver, scope, addr string) dockerd.Network {
		return dockerd.Network{Name: name, ID: name, Driver: driver, Scope: scope, IPv4: netip.MustParseAddr(addr)}
	}
	task := running("task", "task", "10.0.0.9", nil)
	task.Networks = []dockerd.Network{
		on(dockerd.GatewayBridge, "bridge", "local", "172.18.0.3"), on("lan", "macvlan", "local", "192.0.2.7"), on("ov", "overlay", "swarm", "10.0.1.4"),
		on("untold", "", "", "172.19.0.3"),
	}
	self := running("self", "self", "10.0.0.8", nil)
	self.Networks = []dockerd.Network{on("ov", "overlay", "swarm", "10.0.1.5")}
	for _, test := range []struct {
		self string
		want map[string]bool
	}{
		{"", map[string]bool{"172.18.0.3": true, "172.19.0.3": true, "10.0.1.4": false, "192.0.2.7": false}},
		{"self", map[string]bool{"172.18.0.3": true, "172.19.0.3": true, "10.0.1.4": true, "192.0.2.7": false}},
	} {
		table := Build(dockerd.NewSnapshot(task, self), nil, test.self, nil, nil)
		for addr, want := range test.want {
			if got := table.At(netip.MustParseAddr(addr)) != nil; got != want {
				t.Errorf("our container is %q: %s is the task's: %t, want %t", test.self, addr, got, want)
			}
		}
	}
}
