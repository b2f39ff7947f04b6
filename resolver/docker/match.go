package docker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
)

const (
	// maxNamed bounds how many left-out containers a note names: old stopped ones
	// pile up by the hundred.
	maxNamed = 5

	// Compose labels what "docker compose run" starts as the service too; it is
	// somebody's shell or task, not an instance.
	labelComposeOneOff = "com.docker.compose.oneoff"

	modeHost = "host"
	modeNone = "none"
)

// answer matches q against one snapshot. self is our own container's ID, or "".
func answer(s *dockerd.Snapshot, q query, self string) resolver.Answer {
	matches := candidates(s, q)
	place := locate(s, self)
	var endpoints []resolver.Endpoint
	var leftOut []string
	for _, c := range matches {
		addr, why := serves(s, c, place)
		if why != "" {
			leftOut = append(leftOut, c.Name+" "+why)
			continue
		}
		e := resolver.Endpoint{Addr: netip.AddrPortFrom(addr, q.port), Name: c.Name, Weight: 1}
		// Containers that share a network namespace are one place to connect to.
		if !slices.ContainsFunc(endpoints, func(o resolver.Endpoint) bool { return o.Addr == e.Addr }) {
			endpoints = append(endpoints, e)
		}
	}
	if len(matches) == 0 {
		return resolver.Answer{Note: nobody(q)}
	}
	return resolver.Answer{Endpoints: endpoints, Note: noteOf(leftOut)}
}

// candidates are the containers that q asks for, in whatever state, by name. A
// container's own name wins over a Compose service's, even while it is stopped:
// which of the two a target means must not depend on who runs.
func candidates(s *dockerd.Snapshot, q query) []*dockerd.Container {
	all := s.Containers()
	if q.name != "" {
		if c := s.ByName(q.name); c != nil {
			all = []*dockerd.Container{c}
		} else {
			all = slices.DeleteFunc(slices.Clone(all), func(c *dockerd.Container) bool {
				return c.Service() != q.name || strings.EqualFold(c.Labels[labelComposeOneOff], "true")
			})
		}
	}
	var matches []*dockerd.Container
	for _, c := range all {
		if !slices.ContainsFunc(q.labels, func(l label) bool { return !l.matches(c) }) {
			matches = append(matches, c)
		}
	}
	slices.SortFunc(matches, func(a, b *dockerd.Container) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return matches
}

// place is where we dial from.
type place struct {
	self     string
	onHost   bool                // in the host's network namespace
	networks map[string]struct{} // IDs of those that our own namespace is on
}

func locate(s *dockerd.Snapshot, self string) place {
	p := place{self: self, onHost: self == ""}
	own := s.Get(self)
	if own == nil {
		return p
	}
	owner := s.NetnsOwner(own)
	if owner == nil {
		return p
	}
	p.onHost = owner.NetworkMode == modeHost
	p.networks = make(map[string]struct{}, len(owner.Networks))
	for _, n := range owner.Networks {
		p.networks[n.ID] = struct{}{}
	}
	return p
}

// serves is where c can be reached, or why it cannot, to be read after its name.
func serves(s *dockerd.Snapshot, c *dockerd.Container, from place) (addr netip.Addr, why string) {
	switch {
	case c.ID == from.self:
		return addr, "is our own container"
	case !c.Running:
		return addr, "is not running"
	case c.Paused:
		return addr, "is paused"
	case c.Health == "unhealthy":
		return addr, "is unhealthy"
	}
	owner := s.NetnsOwner(c)
	switch {
	case owner == nil:
		return addr, "shares the network of a container that is gone"
	case owner.NetworkMode == modeHost && from.onHost:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), ""
	case owner.NetworkMode == modeHost:
		return addr, "is on the host's network, which ambassadord's container is not"
	case owner.NetworkMode == modeNone:
		return addr, "has no network"
	}
	if addr = address(owner, from); !addr.IsValid() {
		return addr, "has no address"
	}
	return addr, ""
}

// address prefers a network that we are on as well, since an engine drops what
// comes from another one; then IPv4; then the network whose name sorts first.
func address(c *dockerd.Container, from place) netip.Addr {
	for _, sharedOnly := range []bool{true, false} {
		for _, family := range []func(dockerd.Network) netip.Addr{
			func(n dockerd.Network) netip.Addr { return n.IPv4 },
			func(n dockerd.Network) netip.Addr { return n.IPv6 },
		} {
			for _, n := range c.Networks {
				_, shared := from.networks[n.ID]
				if a := family(n); a.IsValid() && (shared || !sharedOnly) {
					return a
				}
			}
		}
	}
	return netip.Addr{}
}

func nobody(q query) string {
	switch {
	case q.name == "":
		return "no container on this host has the " + q.labelText()
	case len(q.labels) == 0:
		return fmt.Sprintf("no container or Compose service is named %s on this host", q.name)
	default:
		return fmt.Sprintf("no container or Compose service named %s on this host has the %s", q.name, q.labelText())
	}
}

func noteOf(leftOut []string) string {
	if len(leftOut) == 0 {
		return ""
	}
	named := leftOut[:min(maxNamed, len(leftOut))]
	note := fmt.Sprintf("%d left out: %s", len(leftOut), strings.Join(named, ", "))
	if more := len(leftOut) - len(named); more > 0 {
		note += fmt.Sprintf(", and %d more", more)
	}
	return note
}
