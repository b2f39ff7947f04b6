package filter

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nft"
)

// byNetlink sets rules by netlink, in tables of our own.
type byNetlink struct {
	rules *nft.Rules

	once     sync.Once
	programs []*iptables.Rules // to read what an older daemon left; none without programs
}

// Variant is part of Reader.
func (*byNetlink) Variant() netrules.Variant { return netrules.NFT }

// Serves is part of Reader. Whether the kernel lacks what one family needs shows with Apply.
func (*byNetlink) Serves(netrules.Family) bool { return true }

// Read is part of Reader.
func (n *byNetlink) Read(ctx context.Context, ns *netns.Namespace, f netrules.Family) (netrules.State, error) {
	return n.rules.Read(ctx, ns, f)
}

// ReadCounters is part of Reader.
func (n *byNetlink) ReadCounters(ctx context.Context, ns *netns.Namespace, f netrules.Family) (netrules.State, error) {
	return n.rules.Read(ctx, ns, f)
}

// Chains is part of Reader.
func (n *byNetlink) Chains(ns *netns.Namespace, f netrules.Family) ([]string, error) {
	return n.rules.Chains(ns, f)
}

// Elsewhere is part of Reader.
func (n *byNetlink) Elsewhere(ns *netns.Namespace, f netrules.Family) ([]string, error) {
	return iptables.Left(ns, f)
}

// ErrUnread says that rules of ours cannot be read: they are iptables', and there is no
// iptables program.
var ErrUnread = errors.New("rules of ours are in iptables' tables, and there is no iptables program to read them")

// ReadElsewhere is part of Reader. Without iptables' programs it is ErrUnread.
func (n *byNetlink) ReadElsewhere(ctx context.Context, ns *netns.Namespace, f netrules.Family) ([]netrules.State, error) {
	left, err := iptables.Left(ns, f)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	n.once.Do(func() {
		ctx := context.WithoutCancel(ctx) // what is found holds for all who ask
		for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
			if r, err := iptables.New(ctx, iptables.Prefer(v)); err == nil {
				n.programs = append(n.programs, r)
			} else if r, err := iptables.New(ctx); !errors.Is(err, exec.ErrNotFound) && err == nil && r.Variant() == v {
				n.programs = append(n.programs, r)
			}
		}
	})
	var states []netrules.State
	read := 0
	for _, r := range n.programs {
		state, err := r.Read(ctx, ns, f)
		if errors.Is(err, netrules.ErrUnsupported) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if ours := state.Ours(); len(ours) > 0 {
			states, read = append(states, state), read+len(ours)
		}
	}
	if read < len(left) {
		return states, ErrUnread
	}
	return states, nil
}

// Pin is part of Changer.
func (*byNetlink) Pin(ns *netns.Namespace) (func(), error) {
	table, err := nft.Pin(ns)
	switch {
	case errors.Is(err, netrules.ErrUnsupported):
		return func() {}, nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EEXIST): // the daemon's whose place we are taking
		return nil, nil
	case err != nil:
		return nil, err
	}
	return func() { _ = table.Close() }, nil // its socket, and the table goes with that
}

// Apply is part of Changer.
func (n *byNetlink) Apply(ctx context.Context, ns *netns.Namespace, chains ...netrules.Chain) (applied Applied, err error) {
	err = ns.Visit(func(ns *netns.Namespace) (err error) {
		applied, err = n.apply(ctx, ns, chains...)
		return err
	})
	return applied, err
}

func (n *byNetlink) apply(ctx context.Context, ns *netns.Namespace, chains ...netrules.Chain) (Applied, error) {
	var applied Applied
	var err error
	applied.Changes, applied.Mark, err = n.rules.Apply(ctx, ns, chains...)
	if errors.Is(err, netrules.ErrUnsupported) && len(chains) > 1 { // perhaps of IPv6 alone
		var four []netrules.Chain
		for _, c := range chains {
			if c.Family == netrules.IPv4 {
				four = append(four, c)
			}
		}
		if applied.Changes, applied.Mark, err = n.rules.Apply(ctx, ns, four...); err == nil {
			applied.Lacking = []netrules.Family{netrules.IPv6}
		}
	}
	if err != nil {
		return applied, err
	}
	// Last, so that at no moment nothing redirects; and not what no chain of ours replaces yet.
	_, err = n.clear(ctx, ns, familiesOf(chains)...)
	return applied, err
}

// clear removes what an older daemon has set by iptables for some families, and its track pin
// with the last: what is ours holds connection tracking itself, and nobody who flushes the nat
// table takes it along.
func (n *byNetlink) clear(ctx context.Context, ns *netns.Namespace, some ...netrules.Family) (map[netrules.Family][]string, error) {
	removed := map[netrules.Family][]string{}
	var errs []error
	pinned := false
	for _, f := range netrules.Families() {
		if !slices.Contains(some, f) {
			left, err := iptables.Left(ns, f)
			pinned = pinned || len(left) > 0 || err != nil
			continue
		}
		chains, err := iptables.RemoveLeft(ctx, ns, f)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
		}
		if len(chains) > 0 {
			removed[f] = chains
		}
	}
	if pinned {
		return removed, errors.Join(errs...)
	}
	return removed, errors.Join(append(errs, unpin(ns))...)
}

// Unhook is part of Changer.
func (n *byNetlink) Unhook(ctx context.Context, ns *netns.Namespace) error {
	return ns.Visit(func(ns *netns.Namespace) error {
		errs := []error{n.rules.Unhook(ctx, ns)}
		for _, f := range netrules.Families() {
			errs = append(errs, iptables.UnhookLeft(ctx, ns, f))
		}
		return errors.Join(errs...)
	})
}

// Remove is part of Changer.
func (n *byNetlink) Remove(ctx context.Context, ns *netns.Namespace) (removed map[netrules.Family][]string, err error) {
	err = ns.Visit(func(ns *netns.Namespace) (err error) {
		removed, err = n.rules.Remove(ctx, ns, netrules.Families()...)
		cleared, clearErr := n.clear(ctx, ns, netrules.Families()...)
		for f, chains := range cleared {
			removed[f] = slices.Concat(removed[f], chains)
		}
		return errors.Join(err, clearErr)
	})
	return removed, err
}

// Told is part of Watcher.
func (*byNetlink) Told() bool { return true }

// Mark is part of Watcher.
func (n *byNetlink) Mark(ctx context.Context, ns *netns.Namespace) (uint64, error) {
	return n.rules.Mark(ctx, ns)
}

// Heavy is part of Watcher.
func (n *byNetlink) Heavy(ns *netns.Namespace) (bool, error) { return n.rules.Heavy(ns) }
