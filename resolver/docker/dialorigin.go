package docker

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// dialOrigin is where we dial from.
type dialOrigin struct {
	self     string
	engine   string          // the host of a remote engine, "" for this host's
	here     bool            // the engine's host is ours
	onHost   bool            // in the host's network namespace
	networks map[string]bool // IDs of those that our own namespace is on
	// subnets are those of the interfaces of our own namespace; of use on the host.
	subnets []netip.Prefix
	bridge  func(name string) []netip.Prefix // the subnets of the interface of that name
}

// bridgeName is what an engine calls the bridge of n unless n's options say otherwise.
func bridgeName(n *dockerd.Network) string {
	if n.Name == "bridge" {
		return "docker0"
	}
	return "br-" + n.ID[:min(len(n.ID), 12)]
}

// subnetsOf are the subnets of the interface of our own namespace that has that name.
func subnetsOf(name string) []netip.Prefix {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	addrs, err := i.Addrs()
	if err != nil {
		return nil
	}
	return prefixes(addrs)
}

func prefixes(addrs []net.Addr) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p)
		}
	}
	return all
}

func locate(s *dockerd.Snapshot, self, engine string, here bool, subnets []netip.Prefix) dialOrigin {
	p := dialOrigin{self: self, engine: engine, here: here, onHost: self == "", subnets: subnets, bridge: subnetsOf}
	own := s.Get(self)
	if own == nil {
		return p
	}
	p.here = true // the engine has started us
	owner := s.NetnsOwner(own)
	if owner == nil {
		return p
	}
	p.onHost = owner.NetworkMode == modeHost
	p.networks = s.OwnNetworks(self)
	return p
}

// address is where a container on networks is dialled. It prefers a network that we are on as
// well, since an engine drops what comes from another one; then IPv4; then the network whose
// name sorts first. Otherwise why says, to be read after the container's name, what keeps us
// from it.
func (p *dialOrigin) address(networks []dockerd.Network) (addr netip.Addr, why string) {
	for _, sharedOnly := range []bool{true, false} {
		for _, family := range []func(dockerd.Network) netip.Addr{
			func(n dockerd.Network) netip.Addr { return n.IPv4 },
			func(n dockerd.Network) netip.Addr { return n.IPv6 },
		} {
			for _, n := range networks {
				a := family(n)
				switch shared := p.networks[n.ID]; {
				case !a.IsValid() || sharedOnly && !shared:
				case shared:
					return a, ""
				default:
					not := p.distant(n, a)
					if not == "" {
						return a, ""
					}
					if why == "" {
						why = not
					}
				}
			}
		}
	}
	if why == "" {
		why = "has no address"
	}
	return netip.Addr{}, why
}

// distant is why a, which a container has on n, is not to be dialled from where we are; "" if
// it is. An address of a network that our host is not part of is somebody else's as soon as it
// leaves this host, by the default route at the latest.
func (p *dialOrigin) distant(n dockerd.Network, a netip.Addr) string {
	const fix = "put it on a bridge network as well, or publish its port and write published=1"
	switch {
	case n.Driver == "" && p.onHost && slices.ContainsFunc(p.bridge(bridgeName(&n)), func(s netip.Prefix) bool { return s.Contains(a) }):
		return "" // the engine may not be asked, as through a proxy before its socket; the kernel tells as much
	case n.Driver == "":
		return fmt.Sprintf("is on the network %s, of which the engine does not say what it is: let ambassadord ask it for /networks", n.Name)
	case n.Driver == "macvlan" || n.Driver == "ipvlan":
		return fmt.Sprintf("is on the %s network %s, where a host does not reach its own containers: %s", n.Driver, n.Name, fix)
	case n.Name == "ingress" && n.Scope != dockerd.ScopeLocal:
		return "is on Swarm's network ingress alone, which leads to published ports: " + fix
	case n.Scope != dockerd.ScopeLocal:
		return fmt.Sprintf("is on the %s network %s of several hosts, of which this host itself is no part: %s", n.Driver, n.Name, fix)
	case n.Driver != dockerd.DriverBridge:
		return fmt.Sprintf("is on the network %s, and with the driver %s nobody says that this host is part of it: %s", n.Name, n.Driver, fix)
	case p.onHost && !slices.ContainsFunc(p.subnets, func(s netip.Prefix) bool { return s.Contains(a) }):
		return fmt.Sprintf("is at %s on the network %s, which no interface of this host is on, as with a rootless engine: publish its port and write published=1", a, n.Name)
	}
	return ""
}
