// Package privilege knows which capabilities this process has (capabilities(7)). Which a mode
// needs says package mode; that depends on where it runs (Circumstances): the legacy iptables opens
// a raw socket, and namespaces that can only be reached through /proc take the right to trace
// their processes.
package privilege

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Set is a set of capabilities(7), a bit each.
type Set uint64

// numbers are those that matter here, by name without CAP_.
func numbers() map[string]int {
	return map[string]int{
		"NET_ADMIN":        unix.CAP_NET_ADMIN,
		"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
		"NET_RAW":          unix.CAP_NET_RAW,
		"SYS_ADMIN":        unix.CAP_SYS_ADMIN,
		"SYS_NICE":         unix.CAP_SYS_NICE, // which no mode needs
		"SYS_PTRACE":       unix.CAP_SYS_PTRACE,
	}
}

// Of makes a Set of names without CAP_; unknown ones are passed over.
func Of(names ...string) Set {
	var s Set
	for _, name := range names {
		if n, ok := numbers()[name]; ok {
			s |= 1 << n
		}
	}
	return s
}

// Has reports whether the capability of that name is in s.
func (s Set) Has(name string) bool { return s&Of(name) != 0 }

// Effective returns the capabilities that this process has: capget(2).
func Effective() (Set, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return Set(data[0].Effective) | Set(data[1].Effective)<<32, nil
}

// Circumstances decide what a mode needs.
type Circumstances struct {
	// Legacy says that iptables is of that variant.
	Legacy bool
	// ThroughProc says that the engine's folder of namespaces is out of sight, so
	// that they are opened as /proc/PID/ns/net.
	ThroughProc bool
}

// Hint says how to get the capabilities of those names.
func Hint(names []string) string {
	return "run as root; in a container add --cap-add " + strings.Join(names, " --cap-add ")
}
