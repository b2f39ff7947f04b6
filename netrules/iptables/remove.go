package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	coreos "github.com/coreos/go-iptables/iptables"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Removed is what a Remove found and took away.
type Removed struct {
	// Chains are the names of our chains that were there.
	Chains []string
	// MadeTable says that the nat table was made by us and stays behind; DropTable
	// takes it away. Where the kernel keeps no comment of a table, with the chain goes the
	// only mark of it, and only one Remove reports it.
	MadeTable bool
}

// Unhook takes every jump to a chain of ours out of the nat table of a namespace
// and returns what it changed. New connections no longer come our way; those
// already translated go on until Remove. Apply hooks the chain again.
//
// To stop without breaking connections: Unhook, let them drain, Remove, DropTable.
func (r *Rules) Unhook(ctx context.Context, ns *netns.Namespace, f netrules.Family) ([]netrules.Change, error) {
	t, err := r.tool(f)
	if err != nil {
		return nil, err
	}
	changes, err := within(ns, func() ([]netrules.Change, error) {
		if t.hasNone() {
			return nil, nil
		}
		state, err := t.read(ctx)
		if t.tooLong(ctx, err) {
			return t.byNetlink().unhook(ctx)
		}
		if err != nil {
			return nil, err
		}
		changes := netrules.PlanUnhook(state)
		return changes, t.unhook(ctx, changes)
	})
	if err != nil {
		return nil, fmt.Errorf("unhook %s rules in %s: %w", f, ns.Name(), err)
	}
	return changes, nil
}

// Remove takes every chain of ours, and every jump to one, out of the nat table
// of a namespace; all jumps go before any chain does. It needs no knowledge of
// what was applied, so it also cleans up after a daemon that was killed, be it in
// the packet filter that is not used.
//
// Connections that went through our rules may break. The kernel tracks, and so
// translates, a namespace's connections only while some rule there needs it: a
// REDIRECT does even in a chain nothing leads to. Docker's DNS rules keep it going
// on a user network; on the default bridge ours are often the only ones. So Unhook
// and drain first.
func (r *Rules) Remove(ctx context.Context, ns *netns.Namespace, f netrules.Family) (Removed, error) {
	t, err := r.tool(f)
	if err != nil {
		return Removed{}, err
	}
	removed, err := within(ns, func() (Removed, error) {
		removed, err := t.remove(ctx)
		if err == nil && t.variant == NFT {
			err = t.byNetlink().whatWeMade(&removed)
		}
		if err != nil {
			return Removed{}, err
		}
		other, err := r.clearOther(ctx, t)
		removed.Chains = append(removed.Chains, other...)
		return removed, err
	})
	if err != nil {
		return Removed{}, fmt.Errorf("remove %s rules in %s: %w", f, ns.Name(), err)
	}
	return removed, nil
}

// DropTable deletes the nat table of a family if it holds nothing but built-in
// chains that are empty and accept; anything else is left as it is. Call it only
// where Remove reported MadeTable, and only when no connection is left that went
// through our rules: with the built-in chains the kernel's last hook for
// translation goes.
//
// The kernel keeps a legacy table as long as the namespace, so there DropTable
// does nothing.
func (r *Rules) DropTable(_ context.Context, ns *netns.Namespace, f netrules.Family) error {
	t, err := r.tool(f)
	if err != nil {
		return err
	}
	if t.variant == Legacy {
		return nil
	}
	_, err = within(ns, func() (struct{}, error) { return struct{}{}, t.byNetlink().dropTable() })
	if err != nil {
		return fmt.Errorf("drop %s table %s in %s: %w", f, natTable, ns.Name(), err)
	}
	return nil
}

// remove runs in the namespace.
func (t *tool) remove(ctx context.Context) (Removed, error) {
	if t.hasNone() {
		return Removed{}, nil
	}
	var tried []netrules.Change
	var failed error
	for range tries {
		state, err := t.read(ctx)
		if t.tooLong(ctx, err) {
			chains, err := t.byNetlink().remove(ctx)
			return Removed{Chains: chains}, err
		}
		if err != nil {
			return Removed{}, err
		}
		changes := netrules.PlanRemove(state)
		if len(changes) == 0 {
			return Removed{}, nil
		}
		// The transaction fails as a whole if one of our jumps went after we looked:
		// Docker and firewalld wipe rules too. So what has changed is tried again.
		if failed != nil && slices.EqualFunc(changes, tried, equalChange) {
			break
		}
		if failed = t.restoreAll(ctx, changes); failed == nil {
			return Removed{Chains: state.Ours(), MadeTable: state.MadeTable()}, nil
		}
		tried = changes
	}
	return Removed{}, failed
}

// tooLong reports whether err is that the iptables program took too long to list a table, as
// it does with some 100,000 rules: to take ours out, netlink finds what leads to them sooner.
func (t *tool) tooLong(ctx context.Context, err error) bool {
	return t.variant == NFT && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
}

// hasNone reports whether there is no chain of ours in the calling thread's namespace, and
// so no jump to one. That takes no process, and no reading of all the rules of others.
func (t *tool) hasNone() bool {
	chains, err := chainsIn(t.variant, t.family)
	if err != nil {
		return false // reading by iptables says what is wrong, and what to do
	}
	return len(ours(chains)) == 0
}

// clearOther removes what is ours from the packet filter that t does not drive, in
// the calling thread's namespace, and returns the chains that were there: our
// rules are never in both.
func (r *Rules) clearOther(ctx context.Context, t *tool) ([]string, error) {
	variant := other(t.variant)
	chains := oursIn(variant, t.family)
	if len(chains) == 0 {
		if made, err := madeTable(t.family); variant == NFT && err == nil && made {
			return nil, netlinkNAT{family: t.family}.dropTable()
		}
		return nil, nil
	}
	beside, err := newTool(ctx, t.family, variant, r.settings)
	if err != nil {
		name := t.family.Command() + suffix(variant)
		return nil, hint.Wrap(fmt.Errorf("rules of ours are in the packet filter %s too: %w", variant, err),
			"install "+name+", or restart the container whose rules they are")
	}
	beside.before = t.before
	removed, err := beside.remove(ctx)
	if err == nil && variant == NFT {
		if err = beside.byNetlink().whatWeMade(&removed); err == nil && removed.MadeTable {
			err = beside.byNetlink().dropTable()
		}
	}
	return removed.Chains, err
}

func equalChange(a, b netrules.Change) bool { return a.String() == b.String() && a.Handle == b.Handle }

// unhook deletes jumps, one after the other.
func (t *tool) unhook(ctx context.Context, changes []netrules.Change) error {
	byNumber, others := numbered(changes)
	if len(byNumber) > 0 {
		if err := t.byNetlink().deleteNumbered(ctx, byNumber); err != nil {
			return err
		}
	}
	for _, c := range others {
		// go-iptables takes no context; each of its programs is bounded by the wait
		// for the lock, and no further one is started.
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.step(t.path); err != nil {
			return err
		}
		err := t.ipt.Delete(c.Table, c.Chain, c.Args...)
		var status *coreos.Error
		switch {
		case errors.As(err, &status) && status.IsNotExist(): // gone already
		case err != nil:
			return explain(t.path, err, "")
		}
	}
	return nil
}

// unhookAll unhooks by the programs of t.
func (t *tool) unhookAll(ctx context.Context) error {
	state, err := t.read(ctx)
	if err != nil {
		return err
	}
	return t.unhook(ctx, netrules.PlanUnhook(state))
}
