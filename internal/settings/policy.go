package settings

import (
	"net"
	"net/netip"
	"strconv"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/docker"
	"github.com/ambassadord/ambassadord/resolver/file"
)

// policyOf compiles what cfg says of who may reach what, for a daemon of those modes.
// registries are the servers that cfg and the environment configure.
func policyOf(cfg config.Config, modes []config.Mode, registries []string, host policy.Host) *policy.Policy {
	c := policy.Config{
		Rules: cfg.Policy.Rules, AllowLoopback: cfg.Policy.AllowLoopback, FileFolders: cfg.Policy.FileFolders,
		OwnAddrs: cfg.HostAddrs, Registries: registries, Host: host,
	}
	if mode.Any(modes, func(m mode.Row) bool { return m.Port }) { // what the others listen on is in other namespaces, or at OwnAddrs
		c.OwnPorts = append(c.OwnPorts, cfg.Port)
	}
	addresses := []string{cfg.Admin.Listen}
	for _, l := range cfg.Listeners {
		addresses = append(addresses, l.Address)
	}
	for _, address := range addresses {
		if _, text, err := net.SplitHostPort(address); err == nil {
			if port, err := strconv.ParseUint(text, 10, 16); err == nil {
				c.OwnPorts = append(c.OwnPorts, uint16(port))
			}
		}
	}
	if port := dockerd.EnginePort(cfg.DockerHost); port != 0 {
		c.OwnPorts = append(c.OwnPorts, port)
	}
	return policy.New(c)
}

// permit is binding.Layers.Permit: what p forbids whatever the image of the container, or
// its networks, which are not known yet.
func permit(p *policy.Policy) func(binding.Declarer, binding.Place, resolver.Target) error {
	return func(d binding.Declarer, place binding.Place, target resolver.Target) error {
		s := p.Scope(policy.Client{
			Container: d.Name, Labels: d.Labels, Image: d.Image, Project: d.Labels[dockerd.LabelProject],
			ByOperator: place == binding.InConfiguration, Partial: true,
		}, TargetOf(target))
		if v, at := s.Target(); v.Denied() {
			return s.Deny(v, at)
		}
		return nil
	}
}

// TargetOf is a target as the policy looks at it.
func TargetOf(t resolver.Target) policy.Target {
	out := policy.Target{Text: t.String()}
	for q := range t.Queries() {
		out.Parts = append(out.Parts, partOf(q))
	}
	return out
}

func partOf(q resolver.Query) policy.Part {
	p := policy.Part{Kind: q.Scheme, Name: q.Host}
	switch q.Scheme {
	case resolver.SchemeDNS, resolver.SchemeSRV:
		p.Registry = q.Server
	case resolver.SchemeStatic:
		if addr, err := netip.ParseAddr(q.Host); err == nil {
			p.Addr = netip.AddrPortFrom(addr, q.Port)
		}
	case file.Scheme:
		p.Name = "/" + q.Path
	case docker.Scheme, docker.SchemeSwarm:
		if p.Name == "" {
			p.Name = q.Params
		}
	case "consul", "etcd":
		p.Name, p.Registry = q.Path, serverOf(q)
	}
	return p
}

// serverOf is the HOST:PORT that a query of a key-value store names, "" if it names none.
func serverOf(q resolver.Query) string {
	if q.Host == "" {
		return ""
	}
	port := q.Port
	if port == 0 {
		port = map[string]uint16{"consul": 8500, "etcd": 2379}[q.Scheme]
	}
	return net.JoinHostPort(q.Host, strconv.Itoa(int(port)))
}
