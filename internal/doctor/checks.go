package doctor

import (
	"context"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/mode"
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

// environment is what the checks have in common.
type environment struct {
	Options
	modes []config.Mode // without auto
}

// Checks lists every check. It looks at nothing yet but this process itself.
func Checks(ctx context.Context, o Options) []Check {
	_, inContainer := containerproc.Self(ctx)
	capabilities, _ := privilege.Effective() // the first check says why not
	h := &environment{Options: o, modes: concrete(o.Modes, inContainer, capabilities)}
	return []Check{
		{Name: "privileges", LooksAt: "the capabilities that each mode, and its source guard, needs; each missing one by name", Run: h.privileges},
		{Name: "rules", LooksAt: "how rules get into the kernel, by iptables or by netlink, and why", Run: h.rules},
		{Name: "iptables", LooksAt: "the programs and their variant", Run: h.iptables},
		{Name: "iptables-mix", LooksAt: "rules of both variants, nft and legacy, side by side", Run: h.mix},
		{Name: "redirect-ipv4", LooksAt: "a connection that is really redirected, and its original port", Run: h.redirect4},
		{Name: "redirect-ipv6", LooksAt: "the same on `::1`", Run: h.redirect6},
		{Name: "bridge-filter", LooksAt: "whether the source guard, which stops forged addresses, can be installed", Run: h.bridgeFilter},
		{Name: "splice", LooksAt: "whether data can stay in the kernel", Run: h.splice},
		// Longer than what each of its two questions may take, which says more.
		{Name: "engine", LooksAt: "its version and API version, its firewall backend, live-restore", Timeout: 12 * time.Second, Run: h.engine},
		{Name: "raw-packets", LooksAt: "containers that could forge their source address", Run: h.rawPackets},
		{Name: "joined-networks", LooksAt: "containers left in the network namespace of another that has a new one by now", Run: h.joinedNetworks},
		{Name: "namespaces", LooksAt: "whether containers' network namespaces can be entered", Run: h.namespaces},
		{Name: "priority", LooksAt: "whether new network namespaces can be prepared at real-time priority", Run: h.priority},
		{Name: "runtimes", LooksAt: "containers whose runtime has a network stack of its own, such as gVisor or Kata, and how to serve them", Run: h.runtimes},
		{Name: "dns", LooksAt: "whether every server of `/etc/resolv.conf` answers", Run: h.dns},
		{Name: "consul", LooksAt: "whether the agent answers and knows a leader; without an agent nothing is wrong", Run: h.consul},
		{Name: "etcd", LooksAt: "whether the servers answer and have a leader; without a server nothing is wrong", Run: h.etcd},
		{Name: "daemon", LooksAt: "whether another ambassadord runs, whether it could have its folder, which process or container has taken the names of older versions, and whether containers declare ports that no daemon serves", Timeout: 12 * time.Second, Run: h.daemon},
		// It runs two processes for each network namespace.
		{Name: "stale-rules", LooksAt: "rules of ours that lead nowhere, in any namespace, and those that stay for connections of a daemon that was killed", Timeout: 15 * time.Second, Run: h.staleRules},
		{Name: "descriptors", LooksAt: "how many connections the limit of open files is good for", Run: h.descriptors},
	}
}

// concrete replaces auto, which is also what nothing stands for, by what the daemon would choose.
func concrete(modes []config.Mode, inContainer bool, have privilege.Set) []config.Mode {
	if len(modes) == 0 {
		modes = []config.Mode{config.Auto}
	}
	return mode.Effective(modes, inContainer, have, nil)
}

// needsRules says whether any mode that is wanted needs packet-filter rules.
func (h *environment) needsRules() bool {
	return mode.Any(h.modes, func(m mode.Row) bool { return m.Rules })
}

// entersNamespaces says whether any mode that is wanted enters containers'.
func (h *environment) entersNamespaces() bool {
	return mode.Any(h.modes, func(m mode.Row) bool { return m.Enters })
}

// unneeded is the result where no mode that is wanted needs what is checked.
func (h *environment) unneeded() Result { return ok("not needed by %s", modeNames(h.modes)) }

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
