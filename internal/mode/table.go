package mode

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/privilege"
)

// Row is what a mode is made of, as far as others have to know it.
type Row struct {
	Name config.Mode
	// Rules says that it has rules in a packet filter of the kernel.
	Rules bool
	// Enters says that it enters its clients' network namespaces. A mode that does not knows them
	// by their source addresses, and needs a guard against forged ones.
	Enters bool
	// Early says that it prepares the namespaces of containers that are just starting.
	Early bool
	// OwnNamespace says that its rules are in the daemon's own network namespace.
	OwnNamespace bool
	// HostWide says that one daemon of a host can be in it.
	HostWide bool
	// Port says that it takes config.Config.Port.
	Port bool
}

// rows is the table of modes: what one needs beyond its row is in its own package.
var rows = []Row{
	{Name: config.Redirect, Rules: true, Enters: true, Early: true, HostWide: true},
	{Name: config.Listen, Enters: true, HostWide: true},
	{Name: config.Host, Rules: true, OwnNamespace: true, HostWide: true},
	{Name: config.Link, Rules: true, OwnNamespace: true, Port: true},
}

// Of is the row of a mode that config.Config.Validate accepts, Auto apart.
func Of(m config.Mode) Row {
	for _, r := range rows {
		if r.Name == m {
			return r
		}
	}
	return Row{Name: m}
}

// Any reports whether one of modes has what is asked for.
func Any(modes []config.Mode, has func(Row) bool) bool {
	return slices.ContainsFunc(modes, func(m config.Mode) bool { return has(Of(m)) })
}

// Effective resolves Auto for a daemon that has those capabilities. log may be nil.
func Effective(modes []config.Mode, inContainer bool, have privilege.Set, log *slog.Logger) []config.Mode {
	if !slices.Contains(modes, config.Auto) {
		return modes
	}
	switch {
	case !inContainer:
		return []config.Mode{config.Redirect}
	case len(Missing(config.Redirect, privilege.Circumstances{}, have)) == 0:
		return []config.Mode{config.Link, config.Redirect}
	}
	if log != nil {
		log.Info("serving links only: entering other containers' network namespaces needs more privileges",
			"hint", "for mode redirect see docs/modes.md, or run on the host")
	}
	return []config.Mode{config.Link}
}

// Required names the capabilities that m needs, in order.
func Required(m config.Mode, c privilege.Circumstances) []string {
	row := Of(m)
	var names []string
	if row.Enters {
		names = append(names, "SYS_ADMIN") // setns(2)
		if c.ThroughProc {
			names = append(names, "SYS_PTRACE") // to open it, see proc_pid_ns(5)
		}
	}
	if row.Rules {
		names = append(names, "NET_ADMIN")
		if c.Legacy {
			names = append(names, "NET_RAW")
		}
	} else {
		names = append(names, "NET_BIND_SERVICE") // for declared ports below 1024
	}
	slices.Sort(names)
	return names
}

// Missing names those of Required that have lacks.
func Missing(m config.Mode, c privilege.Circumstances, have privilege.Set) []string {
	return slices.DeleteFunc(Required(m, c), have.Has)
}

// Guarded names the capabilities that modes which do not enter their clients' namespaces need,
// besides their own, to keep containers from forging source addresses, in order. NET_ADMIN is
// among them because mode link may do without it where others set its rules.
func Guarded(c privilege.Circumstances) []string {
	names := []string{"NET_ADMIN", "SYS_ADMIN"} // an nftables table; setns(2) to where a veth pair ends
	if c.ThroughProc {
		names = append(names, "SYS_PTRACE")
	}
	return names
}

// MayGuard says which of Guarded have lacks, nil if none.
func MayGuard(c privilege.Circumstances, have privilege.Set) error {
	missing := MissingForGuard(c, have)
	if len(missing) == 0 {
		return nil
	}
	return hint.Errorf(privilege.Hint(missing), "the guard lacks the capability %s", strings.Join(missing, ", "))
}

// MissingForGuard names those of Guarded that have lacks.
func MissingForGuard(c privilege.Circumstances, have privilege.Set) []string {
	return slices.DeleteFunc(Guarded(c), have.Has)
}
