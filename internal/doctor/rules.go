package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// seenRules is what was seen of our rules in all network namespaces.
type seenRules struct {
	looked int      // namespaces that were looked into
	ours   int      // those of them with chains of ours
	stale  []string // those whose chains lead to a port where nobody listens
	// carried are those in which chains are left for connections that processes carry on whose
	// daemon is gone, each with which process, and how many.
	carried []string
	blind   []string // those in which iptables cannot list what others have, and whose they are
	locked  bool     // a daemon runs, in whatever namespace
	err     error    // why not all that could be opened were looked into
	hidden  error    // why some could not be opened
}

func checkStaleRules(ctx context.Context, h *environment) Result {
	rules, err := filter.Open(ctx, h.Rules)
	if errors.Is(err, exec.ErrNotFound) && !h.needsRules() {
		return h.unneeded()
	}
	if err != nil {
		return undone(err)
	}
	s := &ruleSearch{rules: rules}
	if dir, err := rundir.Find(h.RunDir); err == nil { // without the folder nobody carries any
		s.carriers, _, _ = claim.Find(dir)
	}
	have, _ := privilege.Effective() // none, where that cannot be known
	l := s.all(ctx)
	l.locked = h.daemonRuns(ctx)
	return judgeLeftovers(l, have.Has("SYS_PTRACE"))
}

// ruleSearch looks for rules of ours.
type ruleSearch struct {
	rules    filter.Rules
	carriers claim.Carriers
}

// judgeLeftovers does not mind what is hidden from who may trace any container's
// process: it belongs to the few, such as process 1 of some machines, that may do
// more than we.
func judgeLeftovers(l seenRules, ptrace bool) Result {
	of := fmt.Sprintf("%d of %s", l.ours, shorten.Count(l.looked, "network namespace", "network namespaces"))
	unseen := l.err
	if !ptrace {
		unseen = errors.Join(l.err, l.hidden)
	}
	switch {
	case len(l.stale) > 0 && !l.locked:
		return warn("remove them: ambassadord rules remove",
			"a daemon that is gone left rules behind, which break connections, in %s", strings.Join(l.stale, ", "))
	case len(l.blind) > 0:
		return warn("ours are kept in order, and removed, all the same; see which rule it is with nft list ruleset in there, and let whoever adds it have a table of its own",
			"iptables cannot list the nat table, because of a rule that it has no words for, in %s", strings.Join(l.blind, ", "))
	case unseen != nil:
		return undone(fmt.Errorf("looked into %s, not all: %w", shorten.Count(l.looked, "network namespace", "network namespaces"), unseen))
	case l.ours == 0:
		return ok("no rules of ours in %s", shorten.Count(l.looked, "network namespace", "network namespaces"))
	case len(l.carried) > 0:
		return ok("rules of ours in %s; some stay until connections of a daemon that is gone have ended, %s", of, strings.Join(l.carried, ", "))
	case l.locked:
		return ok("rules of ours in %s, and a daemon runs", of)
	}
	return ok("rules of ours in %s, and somebody listens where they lead", of)
}

// all looks into every network namespace there is.
func (s *ruleSearch) all(ctx context.Context) seenRules {
	var l seenRules
	namespaces, err := netns.All(ctx)
	l.hidden = err
	for _, ns := range namespaces {
		if ctx.Err() != nil {
			l.err = ctx.Err()
		} else if err := s.one(ctx, ns, &l); err != nil {
			l.err = err
		}
		ns.Close()
	}
	return l
}

// one adds what it finds in a namespace to l.
func (s *ruleSearch) one(ctx context.Context, ns *netns.Namespace, l *seenRules) error {
	chains, hooked, blind, err := s.chains(ctx, ns)
	if err != nil {
		return err
	}
	l.looked++
	if blind {
		l.blind = append(l.blind, whose(ns, chains))
	}
	if len(chains) == 0 {
		return nil
	}
	l.ours++
	listening, err := ns.ListeningPorts()
	if err != nil {
		return err
	}
	for _, c := range chains {
		for _, p := range destinations(c) {
			if listening[p] {
				return nil
			}
		}
	}
	if others := s.carriers.In(ns.ID()); !others.None() && !hooked {
		l.carried = append(l.carried, fmt.Sprintf("%s: %s", ns.Path(), others))
		return nil
	}
	l.stale = append(l.stale, ns.Path())
	return nil
}

// whose names a namespace, by the container that our rules in there are for if they say.
func whose(ns *netns.Namespace, chains []netrules.ChainState) string {
	for _, c := range chains {
		for _, args := range c.Rules {
			if e := netrules.Explain(c.Name, args); e.Kind == netrules.KindRedirect && e.Owner != "" {
				return fmt.Sprintf("%s: %s", ns.Path(), e.Owner)
			}
		}
	}
	return ns.Path()
}

// chains are those of ours in a namespace, of both families, wherever they are; blind is
// whether iptables cannot list what there is besides.
func (s *ruleSearch) chains(ctx context.Context, ns *netns.Namespace) (chains []netrules.ChainState, hooked, blind bool, err error) {
	for _, f := range netrules.Families() {
		state, err := s.rules.Read(ctx, ns, f)
		states := []netrules.State{state}
		if err == nil {
			var elsewhere []netrules.State
			elsewhere, err = s.rules.ReadElsewhere(ctx, ns, f)
			states = append(states, elsewhere...)
		}
		switch {
		case errors.Is(err, netrules.ErrUnsupported):
			continue
		case err != nil:
			return nil, false, false, err
		}
		for _, state := range states {
			for _, name := range state.Ours() {
				c, _ := state.Chain(name)
				chains = append(chains, c)
				hooked = hooked || len(state.Jumps(name)) > 0
			}
			blind = blind || state.Unlisted != nil
		}
	}
	return chains, hooked, blind, nil
}

// destinations are the ports that a chain's rules send connections to.
func destinations(c netrules.ChainState) []uint16 {
	var ports []uint16
	for _, rule := range c.Rules {
		for i, arg := range rule[:max(0, len(rule)-1)] {
			switch arg {
			case "--to-ports":
				if p, err := strconv.ParseUint(rule[i+1], 10, 16); err == nil {
					ports = append(ports, uint16(p))
				}
			case "--to-destination":
				if a, err := netip.ParseAddrPort(rule[i+1]); err == nil {
					ports = append(ports, a.Port())
				}
			}
		}
	}
	return ports
}
