package doctor

import (
	"context"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/netrules"
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

// checks are all of them: what each is called and looks at, how long it may take (0: defaultTimeout),
// and how it looks.
var checks = []struct {
	name, looksAt string
	timeout       time.Duration
	run           func(context.Context, *environment) Result
}{
	{"privileges", "the capabilities that each mode, and its source guard, needs; each missing one by name", 0, checkPrivileges},
	{"rules", "how rules get into the kernel, by iptables or by netlink, and why", 0, checkRules},
	{"iptables", "the programs and their variant", 0, checkIptables},
	{"iptables-mix", "rules of both variants, nft and legacy, side by side", 0, checkMix},
	{"redirect-ipv4", "a connection that is really redirected, and its original port", 0, checkRedirect(netrules.IPv4)},
	{"redirect-ipv6", "the same on `::1`", 0, checkRedirect(netrules.IPv6)},
	{"bridge-filter", "whether the source guard, which stops forged addresses, can be installed", 0, checkBridgeFilter},
	{"splice", "whether data can stay in the kernel", 0, checkSplice},
	// Longer than what each of its two questions may take, which says more.
	{"engine", "its version and API version, its firewall backend, live-restore", 12 * time.Second, checkEngine},
	{"raw-packets", "containers that could forge their source address", 0, checkRawPackets},
	{"joined-networks", "containers left in the network namespace of another that has a new one by now", 0, checkJoinedNetworks},
	{"namespaces", "whether containers' network namespaces can be entered", 0, checkNamespaces},
	{"priority", "whether new network namespaces can be prepared at real-time priority", 0, checkPriority},
	{"runtimes", "containers whose runtime has a network stack of its own, such as gVisor or Kata, and how to serve them", 0, checkRuntimes},
	{"dns", "whether every server of `/etc/resolv.conf` answers; that none does fails where a running container declares a target that needs one", 0, checkDNS},
	{"consul", "whether the agent answers, knows a leader and lets read services; without an agent nothing is wrong", 0, checkConsul},
	{"etcd", "whether the servers answer and have a leader; without a server nothing is wrong", 0, checkEtcd},
	{"daemon", "whether a daemon runs, whether it could have its folder, which process or container has taken the names of older versions, and whether containers declare ports that no daemon serves", 12 * time.Second, checkDaemon},
	// It runs two processes for each network namespace.
	{"stale-rules", "rules of ours that lead nowhere, in any namespace, and those that stay for connections of a daemon that was killed", 15 * time.Second, checkStaleRules},
	{"descriptors", "how many connections the limit of open files is good for", 0, checkDescriptors},
}

// Checks lists every check. It looks at nothing yet but this process itself.
func Checks(ctx context.Context, o Options) []Check {
	_, inContainer := containerproc.Self(ctx)
	capabilities, _ := privilege.Effective() // the first check says why not
	h := &environment{Options: o, modes: concrete(o.Modes, inContainer, capabilities)}
	all := make([]Check, len(checks))
	for i, c := range checks {
		all[i] = Check{Name: c.name, LooksAt: c.looksAt, Timeout: c.timeout, Run: func(ctx context.Context) Result { return c.run(ctx, h) }}
	}
	return all
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
