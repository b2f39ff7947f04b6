package docker

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// TestOnlyNetworksThatWeAreOnAreDialled: what has an address of a network that this host is not
// part of would be dialled by the default route, at whoever has that address there.
func TestOnlyNetworksThatWeAreOnAreDialled(t *testing.T) {
	on := func(name, driver, scope, addr string) dockerd.Network {
		return dockerd.Network{Name: name, ID: "id-" + name, Driver: driver, Scope: scope, IPv4: netip.MustParseAddr(addr)}
	}
	overlay, lan := on("ov", "overlay", "swarm", "10.0.1.4"), on("lan", "macvlan", "local", "192.0.2.9")
	bridge := on("back", "bridge", "local", "172.18.0.2")
	gateway := on(dockerd.GatewayBridge, "bridge", "local", "172.19.0.3")
	const fix = ": put it on a bridge network as well, or publish its port and write published=1"
	for _, test := range []struct {
		name     string
		networks []dockerd.Network
		self     []dockerd.Network // those of our own container, nil on the host
		engine   string
		query    string
		bridge   string // an interface with the subnet 172.18.3.0/24
		want     string
		why      string
	}{
		{name: "a bridge", networks: []dockerd.Network{bridge}, want: "172.18.0.2:80"},
		{name: "a task of Swarm", networks: []dockerd.Network{gateway, overlay}, want: "172.19.0.3:80"},
		{name: "an overlay without a gateway", networks: []dockerd.Network{overlay}, why: "web is on the overlay network ov of several hosts, of which this host itself is no part" + fix},
		{name: "and a bridge", networks: []dockerd.Network{bridge, overlay}, want: "172.18.0.2:80"},
		{name: "the overlay is asked for", networks: []dockerd.Network{bridge, overlay}, query: "web:80?network=ov", why: "web is on the overlay network ov of several hosts, of which this host itself is no part" + fix},
		{name: "ingress", networks: []dockerd.Network{on("ingress", "overlay", "swarm", "10.0.0.4")}, why: "web is on Swarm's network ingress alone, which leads to published ports" + fix},
		{name: "macvlan", networks: []dockerd.Network{lan}, why: "web is on the macvlan network lan, where a host does not reach its own containers" + fix},
		{name: "ipvlan", networks: []dockerd.Network{on("lan", "ipvlan", "local", "192.0.2.9")}, why: "web is on the ipvlan network lan, where a host does not reach its own containers" + fix},
		{name: "another driver", networks: []dockerd.Network{on("w", "weave", "local", "10.32.0.2")}, why: "web is on the network w, and with the driver weave nobody says that this host is part of it" + fix},
		{name: "the engine does not tell", networks: []dockerd.Network{on("w", "", "", "172.18.0.2")}, why: "web is on the network w, of which the engine does not say what it is: let ambassadord ask it for /networks"},
		{name: "it does not tell of a bridge of this host", networks: []dockerd.Network{on("w", "", "", "172.18.3.2")}, bridge: "br-id-w", want: "172.18.3.2:80"},
		{name: "of another one there", networks: []dockerd.Network{on("w", "", "", "10.0.1.4")}, bridge: "br-id-w", why: "web is on the network w, of which the engine does not say what it is: let ambassadord ask it for /networks"},
		{name: "of the engine's own bridge", networks: []dockerd.Network{on("bridge", "", "", "172.18.3.2")}, bridge: "docker0", want: "172.18.3.2:80"},
		{name: "a bridge of a rootless engine", networks: []dockerd.Network{on("w", "bridge", "local", "10.99.0.2")}, why: "web is at 10.99.0.2 on the network w, which no interface of this host is on, as with a rootless engine: publish its port and write published=1"},
		{name: "a container of ours on the same overlay", networks: []dockerd.Network{overlay}, self: []dockerd.Network{overlay}, want: "10.0.1.4:80"},
		{name: "on the same macvlan", networks: []dockerd.Network{bridge, lan}, self: []dockerd.Network{lan}, want: "192.0.2.9:80"},
		{name: "on another bridge", networks: []dockerd.Network{overlay}, self: []dockerd.Network{bridge}, why: "web is on the overlay network ov of several hosts, of which this host itself is no part" + fix},
		{name: "an engine elsewhere", networks: []dockerd.Network{bridge}, engine: "192.0.2.1", why: "web is on another host, whose containers are reached by published ports alone: write published=1"},
		{name: "an engine by whatever address that has started us", networks: []dockerd.Network{bridge}, engine: "192.0.2.1", self: []dockerd.Network{bridge}, want: "172.18.0.2:80"},
	} {
		t.Run(test.name, func(t *testing.T) {
			web := container("web")
			web.Networks = test.networks
			containers, self := []*dockerd.Container{web}, ""
			if test.self != nil {
				me := container("me")
				me.Networks, self = test.self, me.ID
				containers = append(containers, me)
			}
			snapshot := dockerd.NewSnapshot(containers...)
			if test.query == "" {
				test.query = "web:80"
			}
			q, err := parse(parseQuery(t, test.query))
			if err != nil {
				t.Fatal(err)
			}
			from := locate(snapshot, self, test.engine, test.engine == "", bridged)
			from.bridge = func(name string) []netip.Prefix {
				if name != test.bridge {
					return nil
				}
				return []netip.Prefix{netip.MustParsePrefix("172.18.3.1/24")}
			}
			a := match(snapshot, q, dockerd.Scope{}, from)
			got, why := "", ""
			for _, e := range a.Endpoints {
				got += e.Addr.String()
			}
			for _, l := range a.LeftOut {
				why += l.String()
			}
			if got != test.want || why != test.why {
				t.Errorf("%q, left out: %q\nwant %q, %q", got, why, test.want, test.why)
			}
		})
	}
	t.Run("the host's network of another host", func(t *testing.T) {
		web := with(container("web"), func(c *dockerd.Container) { c.NetworkMode = modeHost })
		snapshot := dockerd.NewSnapshot(web)
		a := match(snapshot, query{name: "web", port: 80}, dockerd.Scope{}, locate(snapshot, "", "192.0.2.1", false, bridged))
		if len(a.Endpoints) > 0 {
			t.Errorf("it leads to %v, which is ours", a.Endpoints)
		}
	})
}

// TestInterfacesAreLookedAtAfterTheSnapshot: a network's bridge is there before its first
// container, and not before the last snapshot.
func TestInterfacesAreLookedAtAfterTheSnapshot(t *testing.T) {
	f := newFakeContainers()
	addrs := []net.Addr{}
	s := New(f, Options{Addrs: func() ([]net.Addr, error) { return addrs, nil }})
	f.set()
	if got := s.subnetsFor(f.Snapshot()); len(got) > 0 {
		t.Fatalf("subnets %v", got)
	}
	addrs = []net.Addr{&net.IPNet{IP: net.IPv4(172, 18, 0, 1), Mask: net.CIDRMask(16, 32)}}
	f.set(container("web", "n=172.18.0.2"))
	if got := s.subnetsFor(f.Snapshot()); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16")}) {
		t.Errorf("subnets %v; want those of the new snapshot", got)
	}
}
