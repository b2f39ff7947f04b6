// Package nft carries out what package netrules plans by netlink, with no program at all, in
// any network namespace: for hosts without iptables, and for those whose engine has left it.
//
// The rules are in tables of our own, `ip ambassadord` and `ip6 ambassadord`, in which the
// chains have the names that they have with iptables: those of ours, and OUTPUT or PREROUTING
// for the hook, so that one plan serves both. Its rules read back as the arguments of
// iptables (read.go), and a plan's changes become messages (write.go); translate.go has a rule's
// translation both ways.
//
// All changes of an Apply, for both families, are one transaction: nobody sees half of them,
// and an interruption leaves all of it or nothing. Nobody else has a use for
// our tables, so one that somebody has made into something else is replaced whole, and Remove
// deletes it with all that is in it. It stays when the process ends, whatever ends that, for
// the connections that are translated by it.
package nft

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// Table is the name of our table, in the families ip and ip6.
const Table = "ambassadord"

// tries is how often an Apply looks anew at what others are changing.
const tries = 5

// Rules reads and changes packet-filter rules. It may be used concurrently on different
// namespaces; calls for the same namespace are for the caller to keep apart.
type Rules struct{}

// New says what is wrong where the kernel has no nftables.
func New() (*Rules, error) {
	// Without NET_ADMIN it does not answer, but then it is there.
	if _, err := nfnetlink.Generation(); err != nil && !errors.Is(err, unix.EPERM) {
		return nil, explain(err)
	}
	return &Rules{}, nil
}

// Read returns what our table of a family holds in a namespace, with how much each rule has
// matched; a nil namespace is the process's own. Reading never makes the table. State.Exists
// is always set: no table of others has to be made for our rules, so there is no mark for one.
func (r *Rules) Read(_ context.Context, ns *netns.Namespace, f netrules.Family) (netrules.State, error) {
	var found *table
	err := ns.Do(func() (err error) {
		found, err = read(f)
		return err
	})
	if err != nil {
		return netrules.State{}, fmt.Errorf("read %s rules in %s: %w", f, ns.Name(), explain(err))
	}
	return found.planned(), nil
}

// Apply makes a namespace hold the chains, at most one of each family, with their jumps, and
// returns what it changed: nothing, if they were there already. All changes are made at once
// or, on an error, none. A chain that the kernel has no support for is netrules.ErrUnsupported. mark is
// what Mark returns as long as nobody has changed anything since; 0 if that is not known.
func (r *Rules) Apply(ctx context.Context, ns *netns.Namespace, chains ...netrules.Chain) (changes []netrules.Change, mark uint64, err error) {
	err = ns.Do(func() (err error) {
		for try := range tries {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// Between a look and the change somebody may have flushed what was seen. Whoever
			// changes rules all the time does not keep ours from being set.
			changes, mark, err = apply(chains, try < tries-1)
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ERESTART) {
				return err
			}
		}
		if errors.Is(err, unix.ENOENT) { // likewise the kernel says that it lacks a kind of chain, or of expression
			err = fmt.Errorf("%w: %w", netrules.ErrUnsupported, err)
		}
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("apply rules in %s: %w", ns.Name(), explain(err))
	}
	return changes, mark, nil
}

// apply runs in the namespace. If it is to be exact it fails with ERESTART when somebody has
// changed any rule since it looked; then what it leaves is what it has planned, and the mark says
// which generation of the rule set that is.
func apply(chains []netrules.Chain, exact bool) (all []netrules.Change, mark uint64, err error) {
	generation, err := nfnetlink.Generation()
	if err != nil {
		return nil, 0, err
	}
	var batch batch
	for _, c := range chains {
		found, err := read(c.Family)
		if err != nil {
			return nil, 0, err
		}
		changes := netrules.Plan(c, found.planned())
		if len(changes) == 0 {
			continue
		}
		all = append(all, changes...)
		if err := batch.add(found, changes); err != nil {
			return nil, 0, err
		}
	}
	switch {
	case len(all) == 0: // all of it was seen after the generation
		return nil, generation, nil
	case !exact:
		return all, 0, nfnetlink.Transact(batch.messages)
	}
	next := uint32(generation) + 1
	if next == 0 { // which the kernel leaves out
		next++
	}
	return all, uint64(next), nfnetlink.TransactAt(uint32(generation), batch.messages)
}

// Unhook takes every jump to a chain of ours out of a namespace, of both families. New
// connections no longer come our way; those already translated go on until Remove: a rule that
// redirects keeps the kernel translating also in a chain that nothing leads to, and the chain
// at the hook stays. Apply hooks the chain again.
func (r *Rules) Unhook(_ context.Context, ns *netns.Namespace) error {
	err := ns.Do(func() (err error) {
		for range tries {
			if err = unhook(); !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("unhook rules in %s: %w", ns.Name(), explain(err))
	}
	return nil
}

// unhook runs in the namespace.
func unhook() error {
	var batch batch
	for _, f := range netrules.Families() {
		found, err := read(f)
		if err != nil {
			return err
		}
		if changes := netrules.PlanUnhook(found.state); len(changes) > 0 {
			if err := batch.change(found, changes); err != nil {
				return err
			}
		}
	}
	if len(batch.messages) == 0 {
		return nil
	}
	return nfnetlink.Transact(batch.messages)
}

// Remove deletes our tables of some families, of both if none is named, with all that is in
// them, and returns the chains of ours that were there. It needs no knowledge of what was applied, so it also cleans up after a daemon that
// was killed.
//
// Connections that went through our rules may break, where nothing else in the namespace has
// the kernel translate. So Unhook and drain first.
func (r *Rules) Remove(_ context.Context, ns *netns.Namespace, some ...netrules.Family) (map[netrules.Family][]string, error) {
	if len(some) == 0 {
		some = netrules.Families()
	}
	removed := map[netrules.Family][]string{}
	err := ns.Do(func() error {
		for _, f := range some {
			there, _, err := tableThere(f)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
			names, err := ourChains(f)
			if err != nil {
				return err
			}
			var batch batch
			if err := batch.dropTable(f); err != nil {
				return err
			}
			err = nfnetlink.Transact(batch.messages)
			if errors.Is(err, unix.ENOENT) { // gone since we looked
				continue
			}
			if err != nil {
				return err
			}
			removed[f] = names
		}
		return nil
	})
	if err != nil {
		return removed, fmt.Errorf("remove rules in %s: %w", ns.Name(), explain(err))
	}
	return removed, nil
}

// Chains returns the names of our chains of a family in a namespace, in a few system calls
// however many rules there are.
func (r *Rules) Chains(ns *netns.Namespace, f netrules.Family) ([]string, error) {
	var names []string
	err := ns.Do(func() (err error) {
		names, err = ourChains(f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s chains in %s: %w", f, ns.Name(), explain(err))
	}
	return names, nil
}

// Mark returns a number that is another one whenever any rule of a namespace may have changed.
// Take it before the Read or Apply it stands for: then a change that comes between the two
// shows the next time. What Apply changes shows as well.
func (r *Rules) Mark(_ context.Context, ns *netns.Namespace) (uint64, error) {
	var mark uint64
	err := ns.Do(func() (err error) {
		mark, err = nfnetlink.Generation()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("mark of the rules in %s: %w", ns.Name(), explain(err))
	}
	return mark, nil
}

// Heavy reports whether it takes long to read our tables, into which whoever has NET_ADMIN in
// there may have put any number of rules. To ask costs a few system calls, however many there
// are.
func (r *Rules) Heavy(ns *netns.Namespace) (bool, error) {
	heavy := false
	err := ns.Do(func() error {
		left := nfnetlink.Budget{Messages: manyRules, Bytes: manyBytes}
		for _, f := range netrules.Families() {
			if err := dumpRules(&left, f); err != nil {
				return err
			}
		}
		heavy = left.Spent()
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("count the rules in %s: %w", ns.Name(), explain(err))
	}
	return heavy, nil
}

// explain adds what an error of the kernel's means for the reader.
func explain(err error) error {
	switch {
	case err == nil, hint.Of(err) != "":
		return err
	case errors.Is(err, netrules.ErrUnsupported):
		return hint.Wrap(err, unsupportedHint)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EINVAL):
		return hint.Wrap(fmt.Errorf("%w: %w", netrules.ErrUnsupported, err), unsupportedHint)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return hint.Wrap(err, "run as root with the capabilities NET_ADMIN and SYS_ADMIN; a table ambassadord that another process owns (nft list tables) is for that process to remove")
	}
	return err
}

const unsupportedHint = "the kernel needs nftables with nft_chain_nat, nft_redir, nft_nat and nft_fib; it loads them itself where modprobe is installed (on Debian the package kmod), else: modprobe -a nft_chain_nat nft_redir nft_nat nft_fib_inet; or install iptables, or use mode listen, which has no rules"
