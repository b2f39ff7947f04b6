package docker

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

const (
	modeHost = "host"
	modeNone = "none"
)

// match answers q, which a client of that scope asks, from one snapshot. from is where we
// dial from.
func match(s *dockerd.Snapshot, q query, scope dockerd.Scope, from dialOrigin) resolver.Answer {
	matches, err := candidates(s, q, scope)
	switch {
	case err != nil:
		return resolver.Answer{Note: err.Error(), Hint: hint.Of(err)}
	case len(matches) == 0:
		return resolver.Answer{Note: nobody(q), Hint: nobodyHint(q)}
	}
	return answerOf(s, matches, q, from)
}

// answerOf is who of matches serves, and who does not and why.
func answerOf(s *dockerd.Snapshot, matches []*dockerd.Container, q query, from dialOrigin) resolver.Answer {
	var endpoints []resolver.Endpoint
	var leftOut []resolver.LeftOut
	for _, c := range matches {
		e, why := serves(s, c, q, from)
		if why != "" {
			out := resolver.LeftOut{Name: c.Name, Why: why, Unhealthy: isUnhealthy(c)}
			if e.Addr.IsValid() || e.Host != "" {
				out.Addr = e.String()
			}
			leftOut = append(leftOut, out)
			continue
		}
		// Containers that share a network namespace are one place to connect to.
		same := func(o resolver.Endpoint) bool { return o.String() == e.String() }
		if !slices.ContainsFunc(endpoints, same) {
			e.Name, e.Weight, e.Health, e.Holder = c.Name, 1, c.Health, c.ID
			if from.here {
				e.Distance = resolver.SameHost
			}
			endpoints = append(endpoints, e)
		}
	}
	a := answer.New(endpoints)
	a.LeftOut = leftOut
	return a
}

// serves is where c can be reached, and why it is not to be, to be read after its
// name.
func serves(s *dockerd.Snapshot, c *dockerd.Container, q query, from dialOrigin) (e resolver.Endpoint, why string) {
	if c.ID == from.self {
		return e, "is our own container"
	}
	if !c.Running {
		return e, "is not running"
	}
	if q.published {
		e, why = published(c, q.port, from)
	} else {
		e, why = inside(s, c, q, from)
	}
	switch {
	case c.Paused:
		why = "is paused"
	case c.Stopping:
		why = "is stopping"
	case c.Health == "unhealthy":
		why = "is unhealthy"
	}
	return e, why
}

// inside is where c itself listens.
func inside(s *dockerd.Snapshot, c *dockerd.Container, q query, from dialOrigin) (e resolver.Endpoint, why string) {
	owner := s.NetnsOwner(c)
	_, left := s.Left(c)
	switch {
	case owner == nil:
		return e, "shares the network of a container that is gone"
	case !from.here:
		return e, "is on another host, whose containers are reached by published ports alone: write published=1"
	case left:
		return e, "is left in a network that " + owner.Name + " had before it was started again"
	case owner.NetworkMode == modeHost && q.network != "":
		return e, "is on the host's network, not on " + q.network
	case owner.NetworkMode == modeHost && from.onHost:
		return resolver.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), q.port)}, ""
	case owner.NetworkMode == modeHost:
		return e, "is on the host's network, which ambassadord's container is not"
	case owner.NetworkMode == modeNone:
		return e, "has no network"
	}
	networks := owner.Networks
	if q.network != "" {
		i := slices.IndexFunc(networks, func(n dockerd.Network) bool { return n.Name == q.network })
		if i < 0 {
			return e, "is not on the network " + q.network
		}
		networks = networks[i : i+1]
	}
	addr, why := from.address(networks)
	if why != "" {
		return e, why
	}
	return resolver.Endpoint{Addr: netip.AddrPortFrom(addr, q.port)}, ""
}

// published is where the host publishes c's port, as seen from where we dial.
func published(c *dockerd.Container, port uint16, from dialOrigin) (e resolver.Endpoint, why string) {
	found := false
	for _, p := range c.Published {
		if p.Port != port {
			continue
		}
		found = true
		at := p.At
		switch host := at.Addr(); {
		case from.engine != "" && host.IsLoopback(): // of another machine
			continue
		case from.engine != "" && host.IsUnspecified():
			// The engine's host goes by the name under which we know it.
			if ip, err := netip.ParseAddr(from.engine); err == nil {
				return resolver.Endpoint{Addr: netip.AddrPortFrom(ip, at.Port())}, ""
			}
			return resolver.Endpoint{Host: from.engine, Port: at.Port()}, ""
		case !from.onHost && (host.IsLoopback() || host.IsUnspecified()):
			continue
		case host.IsUnspecified() && host.Is4():
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
		case host.IsUnspecified():
			at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
		}
		return resolver.Endpoint{Addr: at, Published: from.engine == ""}, ""
	}
	if found {
		return e, fmt.Sprintf("publishes its port %d where ambassadord cannot reach it", port)
	}
	return e, fmt.Sprintf("does not publish its port %d", port)
}

func nobody(q query) string {
	what := "container"
	if q.name != "" {
		what = "container or service"
		switch {
		case q.project != "":
			what = "Compose service named " + q.name
		case len(q.labels) > 0:
			what += " named " + q.name
		default:
			return fmt.Sprintf("no container or service is named %s on this host", q.name)
		}
	}
	text := "no " + what + " on this host"
	if q.project != "" {
		text += " is of the project " + q.project
	}
	if len(q.labels) > 0 {
		if q.project != "" {
			text += " and"
		}
		text += " has the " + q.labelText()
	}
	return text
}

// nobodyHint is where to look for what q might have meant.
func nobodyHint(q query) string {
	switch {
	case q.project != "":
		return "docker compose ls --all lists the projects, and docker ps -a the containers with their names"
	case q.name != "":
		return "docker ps -a lists the containers: a name is a container's, or that of a service of Compose or Swarm"
	}
	return "docker ps -a --filter label=KEY=VALUE lists the containers that have a label"
}

// isUnhealthy reports whether a container does not serve since its health check fails. The
// engine says so, too, of one that is stopped or paused.
func isUnhealthy(c *dockerd.Container) bool {
	return c.Running && !c.Paused && !c.Stopping && c.Health == "unhealthy"
}
