package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/holders"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// living tells rules that a daemon serves from those that are nobody's. A lock covers one
// network namespace and one /run, and rules are looked for in all: so a daemon elsewhere,
// in a container of its own, say, is known by the sockets that its rules lead to.
type living struct {
	rules *iptables.Rules
	other *iptables.Rules // for the packet filter that is not used; may be nil
	held  holders.Index
}

func findLiving(ctx context.Context, rules *iptables.Rules) *living {
	l := &living{rules: rules, held: holders.Scan(ctx)}
	other := iptables.Legacy
	if rules.Variant() == iptables.Legacy {
		other = iptables.NFT
	}
	l.other, _ = iptables.New(ctx, iptables.Prefer(other)) // without its programs nobody has made any
	return l
}

// servedBy names the daemon that listens where rules of ours in ns lead, "" if none does.
// That what holds the socket cannot be seen counts as one: it is in another container.
func (l *living) servedBy(ctx context.Context, ns *netns.Namespace) (string, error) {
	ports, err := l.destinations(ctx, ns)
	if err != nil || len(ports) == 0 {
		return "", err
	}
	listening, err := ns.Listeners()
	if err != nil {
		return "", err
	}
	for port, kind := range ports {
		for _, inode := range listening[port] {
			processes, seen := l.held[inode]
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

// destinations are the ports that rules of ours in ns lead to.
func (l *living) destinations(ctx context.Context, ns *netns.Namespace) (map[uint16]netrules.Kind, error) {
	ports := map[uint16]netrules.Kind{}
	for _, f := range families() {
		here, err := l.rules.Chains(ns, f)
		if errors.Is(err, iptables.ErrUnsupported) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(here) > 0 {
			err = addDestinations(ctx, l.rules, ns, f, ports)
		}
		if err != nil {
			return nil, err
		}
		elsewhere, err := l.rules.Elsewhere(ns, f)
		if err == nil && len(elsewhere) > 0 && l.other != nil {
			err = addDestinations(ctx, l.other, ns, f, ports)
		}
		if err != nil && !errors.Is(err, iptables.ErrUnsupported) {
			return nil, err
		}
	}
	return ports, nil
}

func addDestinations(ctx context.Context, rules *iptables.Rules, ns *netns.Namespace, f netrules.Family, ports map[uint16]netrules.Kind) error {
	state, err := rules.Read(ctx, ns, f)
	if err != nil {
		return err
	}
	for _, name := range state.Ours() {
		chain, _ := state.Chain(name)
		for _, args := range chain.Rules {
			if e := netrules.Explain(name, args); e.Listen != 0 {
				ports[e.Listen] = e.Kind
			}
		}
	}
	return nil
}
