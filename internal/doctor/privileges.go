package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
)

func checkPrivileges(ctx context.Context, h *environment) Result {
	have, err := privilege.Effective()
	if err != nil {
		return undone(err)
	}
	var c privilege.Circumstances
	if rules, err := filter.Open(ctx, h.Rules); err == nil { // the next check says why not
		c.Legacy = rules.Variant() == netrules.IPTablesLegacy
	}
	_, _, err = netnsFolder()
	c.ThroughProc = err != nil
	return judgePrivileges(h.modes, have, c)
}

func judgePrivileges(wanted []config.Mode, have privilege.Set, c privilege.Circumstances) Result {
	var lacking, possible, unguarded []string // sentences; modes not wanted; wanted, and known by addresses
	var missing []string
	lacksGuard := mode.MissingForGuard(c, have)
	for _, m := range config.Modes() {
		lacks := mode.Missing(m, c, have)
		switch {
		case m == config.Auto:
		case slices.Contains(wanted, m) && len(lacks) > 0:
			lacking = append(lacking, fmt.Sprintf("mode %s lacks %s", m, strings.Join(lacks, ", ")))
			missing = append(missing, lacks...)
		case slices.Contains(wanted, m):
			if !mode.Of(m).Enters && len(lacksGuard) > 0 {
				unguarded = append(unguarded, string(m))
			}
		case len(lacks) == 0 && (mode.Of(m).Enters || len(lacksGuard) == 0):
			possible = append(possible, string(m))
		case len(lacks) == 0:
			possible = append(possible, string(m)+" without its guard")
		}
	}
	if len(lacking) == 0 && len(unguarded) > 0 {
		return warn(privilege.Hint(lacksGuard)+"; or accept the risk with --trust-source-addresses",
			"enough for %s, but not for the guard of mode %s, which lacks %s: containers that could forge their source address are refused",
			modeNames(wanted), strings.Join(unguarded, ", "), strings.Join(lacksGuard, ", "))
	}
	if len(lacking) == 0 {
		r := ok("enough for %s", modeNames(wanted))
		if len(possible) > 0 {
			r.Summary += "; also for " + strings.Join(possible, ", ")
		}
		return r
	}
	slices.Sort(missing)
	fix := privilege.Hint(slices.Compact(missing))
	if len(possible) > 0 {
		fix += "; or use --mode " + possible[0]
	}
	return fail(fix, "%s", strings.Join(lacking, "; "))
}
