package doctor

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/netrules/filter"
)

// Options say what the daemon would be told.
type Options struct {
	// Modes are those it would serve. Empty means auto.
	Modes []config.Mode
	// DockerHost is the engine's endpoint; "" means DOCKER_HOST, else the usual
	// socket.
	DockerHost string
	// ConsulAddr is the configured agent; "" means that none is, and that one is
	// looked for at Consul's default address.
	ConsulAddr string
	// RunDir is the folder of the daemon's lock and sockets; "" is the usual one.
	RunDir string
	// Rules is how the daemon would set its rules, "" being auto.
	Rules filter.Kind
	// EtcdEndpoints are the configured servers; none means likewise.
	EtcdEndpoints []string
}

// host is what the checks have in common.
type host struct {
	Options
	modes []config.Mode // without auto
}

// Checks lists every check. It looks at nothing yet but this process itself.
func Checks(ctx context.Context, o Options) []Check {
	_, inContainer := dockerd.Self(ctx)
	capabilities, _ := privilege.Effective() // the first check says why not
	h := &host{Options: o, modes: concrete(o.Modes, inContainer, capabilities)}
	return []Check{
		{Name: "privileges", Run: h.privileges},
		{Name: "rules", Run: h.rules},
		{Name: "iptables", Run: h.iptables},
		{Name: "iptables-mix", Run: h.mix},
		{Name: "redirect-ipv4", Run: h.redirect4},
		{Name: "redirect-ipv6", Run: h.redirect6},
		{Name: "bridge-filter", Run: h.bridgeFilter},
		{Name: "splice", Run: h.splice},
		// Longer than what each of its two questions may take, which says more.
		{Name: "engine", Timeout: 12 * time.Second, Run: h.engine},
		{Name: "raw-packets", Run: h.rawPackets},
		{Name: "joined-networks", Run: h.joinedNetworks},
		{Name: "namespaces", Run: h.namespaces},
		{Name: "priority", Run: h.priority},
		{Name: "runtimes", Run: h.runtimes},
		{Name: "dns", Run: h.dns},
		{Name: "consul", Run: h.consul},
		{Name: "etcd", Run: h.etcd},
		{Name: "daemon", Timeout: 12 * time.Second, Run: h.daemon},
		// It runs two processes for each network namespace.
		{Name: "stale-rules", Timeout: 15 * time.Second, Run: h.staleRules},
		{Name: "descriptors", Run: h.descriptors},
	}
}

// concrete replaces auto by what the daemon would choose.
func concrete(modes []config.Mode, inContainer bool, have privilege.Set) []config.Mode {
	switch {
	case len(modes) > 0 && !slices.Contains(modes, config.Auto):
		return modes
	case !inContainer:
		return []config.Mode{config.Redirect}
	case have.Has("SYS_ADMIN"):
		return []config.Mode{config.Link, config.Redirect}
	}
	return []config.Mode{config.Link}
}

// needsRules says whether any mode that is wanted needs packet-filter rules.
func (h *host) needsRules() bool {
	return slices.ContainsFunc(h.modes, func(m config.Mode) bool { return m != config.Listen })
}

// entersNamespaces says whether any mode that is wanted enters containers'.
func (h *host) entersNamespaces() bool { return slices.ContainsFunc(h.modes, enters) }

// enters says whether a mode enters its clients' namespaces; the others know them
// by their source addresses.
func enters(m config.Mode) bool { return m == config.Redirect || m == config.Listen }

// unneeded is the result where no mode that is wanted needs what is checked.
func (h *host) unneeded() Result { return ok("not needed by %s", modeNames(h.modes)) }

// modeNames is "mode link" or "modes link, redirect".
func modeNames(modes []config.Mode) string {
	words := make([]string, len(modes))
	for i, m := range modes {
		words[i] = string(m)
	}
	if len(words) == 1 {
		return "mode " + words[0]
	}
	return "modes " + strings.Join(words, ", ")
}
