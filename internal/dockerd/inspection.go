package dockerd

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	docker "github.com/fsouza/go-dockerclient"
	"golang.org/x/sys/unix"
)

const (
	unhealthy = "unhealthy"

	// probeRetries is how many probes have to fail in a row where the container's own number
	// is not known to be another (defaultProbeRetries in moby, daemon/health.go).
	probeRetries = 3
)

func (in *inspection) container() *Container {
	c := &Container{
		ID:        in.ID,
		Name:      strings.TrimPrefix(in.Name, "/"),
		Running:   in.State.Running && !in.State.Restarting,
		Paused:    in.State.Paused,
		StartedAt: in.State.StartedAt,
		ImageID:   in.Image,
	}
	var unsure bool
	c.Health, unsure = in.health()
	c.HealthUnsure = unsure && c.Running && !c.Paused // or it is not probed
	if c.Running {
		c.Published = published(in.NetworkSettings.Ports)
		c.PID = in.State.Pid
		c.SandboxKey = in.NetworkSettings.SandboxKey
	}
	if cfg := in.Config; cfg != nil {
		c.Hostname, c.Image, c.Labels, c.Env = cfg.Hostname, cfg.Image, cfg.Labels, cfg.Env
		c.StopSignal = stopSignal(cfg.StopSignal)
		c.ExposedPorts = tcpPorts(cfg.ExposedPorts)
	}
	if hc := in.HostConfig; hc != nil {
		c.NetworkMode, c.Runtime = hc.NetworkMode, cmp.Or(in.OCIRuntime, hc.Runtime)
		c.Links = bridgeLinks(hc.Links)
		c.NetRaw, c.NetAdmin = holds(hc, "NET_RAW", true), holds(hc, "NET_ADMIN", false)
	}
	c.Networks = in.networks(c.NetworkMode)
	c.keepDeclared()
	return c
}

// health is what the engine's probes have shown of a container, as in Container.Health.
//
// An engine calls a container unhealthy as soon as it stops probing, as at a pause, and so at
// a commit; and, once it probes again, until the first probe that passes. It tells no event of
// that. So it is believed only if as many probes have failed as it takes. If not, unsure is
// true: the next that fails may make it so, of which the engine tells no event either.
func (in *inspection) health() (health string, unsure bool) {
	h := &in.State.Health
	switch {
	case h.Status == "none":
		return "", false
	case h.Status != unhealthy:
		return h.Status, false
	}
	retries := 1
	if in.Config != nil && in.Config.Healthcheck != nil {
		if retries = in.Config.Healthcheck.Retries; retries <= 0 {
			retries = probeRetries
		}
	}
	passed := func(p docker.HealthCheck) bool { return p.ExitCode == 0 }
	switch {
	case h.FailingStreak >= retries:
		return unhealthy, false
	case slices.ContainsFunc(h.Log, passed):
		return "healthy", true
	}
	return "starting", true
}

// holds reads whether a container has a capability (without its CAP_), which is
// in the default set or not, from what was added to and dropped from that, in the
// order in which the engine does.
func holds(hc *docker.HostConfig, capability string, byDefault bool) bool {
	names := func(list []string, word string) bool {
		return slices.ContainsFunc(list, func(c string) bool {
			return strings.TrimPrefix(strings.ToUpper(c), "CAP_") == word
		})
	}
	added, dropped := names(hc.CapAdd, capability), names(hc.CapDrop, capability)
	switch {
	case hc.Privileged:
		return true
	case names(hc.CapAdd, "ALL"):
		return !dropped
	case names(hc.CapDrop, "ALL"):
		return added
	}
	return added || byDefault && !dropped
}

// networks reads Networks, which every engine since 1.9 fills. The fields beside
// it speak of the default bridge alone and are empty on engine 29 and later.
func (in *inspection) networks(mode string) []Network {
	ns := &in.NetworkSettings
	if len(ns.Networks) == 0 {
		n := Network{Name: mode, ID: ns.NetworkID, IPv4: addr(ns.IPAddress), IPv6: addr(ns.GlobalIPv6Address)}
		if !n.IPv4.IsValid() && !n.IPv6.IsValid() {
			return nil
		}
		if n.Name == "" || n.Name == "default" {
			n.Name = "bridge"
		}
		return []Network{n}
	}
	list := make([]Network, 0, len(ns.Networks))
	for name, e := range ns.Networks {
		list = append(list, Network{
			Name:    name,
			ID:      e.NetworkID,
			IPv4:    addr(e.IPAddress),
			IPv6:    addr(e.GlobalIPv6Address),
			Aliases: e.Aliases,
			Links:   networkLinks(e.Links),
		})
	}
	slices.SortFunc(list, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// addr is text as an address; what does not parse, "" above all, is none.
func addr(text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

func tcpPorts(exposed map[docker.Port]struct{}) []uint16 {
	var ports []uint16
	for p := range exposed {
		if n := tcpPort(p); n != 0 {
			ports = append(ports, n)
		}
	}
	slices.Sort(ports)
	return ports
}

// tcpPort reads PORT or PORT/tcp; anything else is 0.
func tcpPort(p docker.Port) uint16 {
	number, proto, _ := strings.Cut(string(p), "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || proto != "" && proto != "tcp" {
		return 0
	}
	return uint16(n)
}

func published(bindings map[docker.Port][]docker.PortBinding) []Published {
	var list []Published
	for p, at := range bindings {
		for _, b := range at {
			ip := addr(cmp.Or(b.HostIP, "0.0.0.0")) // Podman leaves it empty
			port, err := strconv.ParseUint(b.HostPort, 10, 16)
			if n := tcpPort(p); n != 0 && ip.IsValid() && err == nil && port != 0 {
				list = append(list, Published{Port: n, At: netip.AddrPortFrom(ip, uint16(port))})
			}
		}
	}
	slices.SortFunc(list, func(a, b Published) int { return cmp.Or(cmp.Compare(a.Port, b.Port), a.At.Compare(b.At)) })
	return list
}

// stopSignal is the number of the signal that ends a container, which may be given
// as a number, or with or without SIG; 0 when it is not.
func stopSignal(text string) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return int(unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")))
}

// bridgeLinks reads the default bridge's form: "/target:/parent/alias".
func bridgeLinks(texts []string) []Link {
	var links []Link
	for _, text := range texts {
		target, alias, _ := strings.Cut(text, ":")
		target = strings.TrimPrefix(target, "/")
		alias = alias[strings.LastIndexByte(alias, '/')+1:]
		links = append(links, Link{Container: target, Alias: cmp.Or(alias, target)})
	}
	slices.SortFunc(links, compareLinks) // the engine keeps them in a map
	return links
}

// networkLinks reads the form of any other network: "target:alias" or "target".
func networkLinks(texts []string) []Link {
	var links []Link
	for _, text := range texts {
		target, alias, _ := strings.Cut(text, ":")
		links = append(links, Link{Container: target, Alias: cmp.Or(alias, target)})
	}
	slices.SortFunc(links, compareLinks)
	return links
}

func compareLinks(a, b Link) int {
	return cmp.Or(cmp.Compare(a.Alias, b.Alias), cmp.Compare(a.Container, b.Container))
}
