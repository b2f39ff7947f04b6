package cleanup

import (
	"context"
	"errors"
	"fmt"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/holders"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// living tells rules that a daemon serves from those that none serves. A lock covers one
// network namespace and one /run, and rules are looked for in all: so a daemon elsewhere,
// in a container of its own, say, is known by the sockets that its rules lead to.
type living struct {
	rules filter.Rules
	held  holders.Index
}

func findLiving(ctx context.Context, rules filter.Rules) *living {
	return &living{rules: rules, held: holders.Scan(ctx)}
}

// servedBy names the daemon that listens where rules of ours in ns lead, "" if none does.
// A process that cannot be seen and holds the socket counts as one: it is in another container.
func (l *living) servedBy(ctx context.Context, ns *netns.Namespace) (string, error) {
	ports, err := l.destinations(ctx, ns)
	unread := errors.Is(err, filter.ErrUnread)
	if err != nil && !unread || err == nil && len(ports) == 0 {
		return "", err
	}
	listening, err := ns.Listeners()
	if err != nil {
		return "", err
	}
	if unread { // they may lead to any port; a daemon is believed to be led to, others are not
		for port := range listening {
			if _, known := ports[port]; !known {
				ports[port] = netrules.KindRedirect
			}
		}
	}
	for port, kind := range ports {
		for _, inode := range listening[port] {
			processes, seen := l.held[inode]
			if !seen && unread && (port < netrules.FirstListenPort || port > netrules.LastListenPort) {
				continue // a container's own, out of sight as we are in another
			}
			if !seen {
				return fmt.Sprintf("a process out of our sight, which listens on port %d", port), nil
			}
			for _, p := range processes {
				// A container's own process may listen where a dead daemon's rules lead.
				if p.Daemon && (kind != netrules.KindRedirect || p.Namespace != ns.ID()) {
					return fmt.Sprintf("%s, which listens on port %d", control.DescribeProcess(p.PID), port), nil
				}
			}
		}
	}
	return "", nil
}

// destinations are the ports that rules of ours in ns lead to. With filter.ErrUnread they are
// not all.
func (l *living) destinations(ctx context.Context, ns *netns.Namespace) (map[uint16]netrules.Kind, error) {
	states, err := l.states(ctx, ns)
	if err != nil && !errors.Is(err, filter.ErrUnread) {
		return nil, err
	}
	ports := map[uint16]netrules.Kind{}
	for _, state := range states {
		addDestinations(state, ports)
	}
	return ports, err
}

// states are the tables of ns, in both packet filters. With filter.ErrUnread they are not whole.
func (l *living) states(ctx context.Context, ns *netns.Namespace) (all []netrules.State, err error) {
	var unread error
	for _, f := range netrules.Families() {
		states, err := l.rules.ReadElsewhere(ctx, ns, f)
		switch {
		case errors.Is(err, netrules.ErrUnsupported):
			continue
		case errors.Is(err, filter.ErrUnread):
			unread = err
		case err != nil:
			return nil, err
		}
		all = append(all, states...)
		here, err := l.rules.Chains(ns, f)
		if err != nil && !errors.Is(err, netrules.ErrUnsupported) {
			return nil, err
		}
		if len(here) == 0 {
			continue
		}
		state, err := l.rules.Read(ctx, ns, f)
		if err != nil {
			return nil, err
		}
		all = append(all, state)
	}
	return all, unread
}

func addDestinations(state netrules.State, ports map[uint16]netrules.Kind) {
	for _, name := range state.Ours() {
		chain, _ := state.Chain(name)
		for _, args := range chain.Rules {
			if e := netrules.Explain(name, args); e.Listen != 0 {
				ports[e.Listen] = e.Kind
			}
		}
	}
}
