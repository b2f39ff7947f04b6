package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

const (
	// keptLease is for how long the sweeper puts an address of mode host on lo, and
	// sweepEvery how often it does, and looks what is needed still.
	keptLease  = 2 * time.Minute
	sweepEvery = keptLease / 8
	// endPatience is how long the keeper may take to end: it writes its last lines.
	endPatience = time.Minute
)

// Sweep removes the rules that were left, unhooked, for the connections of a keeper, when
// these have ended, since the keeper itself may not change rules. carrier ends with the keeper, whose claim in
// folder is name. Meanwhile the addresses of mode host that the connections are to are
// renewed. A chain that is hooked is a daemon's, or was left for the next one, and stays.
func Sweep(ctx context.Context, folder, name string, carrier io.Reader, log *slog.Logger) error {
	dir, err := rundir.Find(folder)
	if err != nil {
		return hint.Wrap(err, "when the last connection has ended, run: ambassadord rules remove")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, carrier) // nothing is ever written
	}()
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	needed, err := claim.Orphan(dir, name)
	for over := false; !over; {
		if err != nil {
			log.Warn("cannot see which rules are left for connections of a daemon that is gone", "error", err)
		}
		renewKept(needed, log)
		select {
		case <-ended:
			over = true
		case <-ticker.C:
		}
		var now claim.Carrier
		if over {
			awaitEnd(dir, name)
		} else if now, err = claim.Orphan(dir, name); err != nil {
			continue // with what was needed before
		}
		if err := removeUnneeded(ctx, dir, noMore(ctx, needed, now, log), log); err != nil {
			log.Error("cannot remove all rules that were left for connections of a daemon that is gone", "error", err, "hint", "run: ambassadord rules remove")
		}
		needed = now
	}
	return nil
}

// noMore are the namespaces in which something was needed that is not any more.
func noMore(ctx context.Context, before, now claim.Carrier, log *slog.Logger) (gone []netns.ID) {
	if before.Everything && !now.Everything {
		if err := EachNamespace(ctx, log, func(ns *netns.Namespace) error { gone = append(gone, ns.ID()); return nil }); err != nil {
			log.Warn("some network namespaces were not looked into", "error", err)
		}
	}
	for need := range before.Needs {
		if _, needed := now.Count(need); !needed {
			gone = append(gone, need.Namespace)
		}
	}
	return gone
}

// awaitEnd returns when no process has the claim name any more, or after endPatience. The descriptors
// of a process that ends are closed one by one: the pipe is when the lock may yet be held.
func awaitEnd(dir *rundir.Dir, name string) {
	const look = 10 * time.Millisecond
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for until := time.Now().Add(endPatience); time.Now().Before(until); <-ticker.C {
		if _, err := dir.ReadClaim(name); errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// renewKept renews the addresses of mode host, of our own namespace, that a carrier needs.
func renewKept(by claim.Carrier, log *slog.Logger) {
	var own *netns.Namespace
	id, err := netns.IDOrOwn(own)
	if err != nil {
		return
	}
	needs := func(f netrules.Family) bool {
		_, needed := by.Count(claim.Need{Namespace: id, Family: f})
		return needed
	}
	if !slices.ContainsFunc(netrules.Families(), needs) {
		return
	}
	leases, err := own.Leases()
	if err != nil {
		log.Warn("cannot look for addresses of mode host", "error", err)
		return
	}
	for _, addr := range leases {
		if !needs(netrules.FamilyOf(addr)) {
			continue
		}
		if _, err := own.Lease(addr, keptLease); err != nil {
			log.Warn("cannot renew an address that live connections use", "address", addr.String(), "error", err)
		}
	}
}

// removeUnneeded removes what was left in those of left whose rules no process needs any more, if
// no daemon serves the host. If one does, or removes rules, it looks itself, after it has let go
// of the lock; and so does this function, since a process may end while the lock is held here.
func removeUnneeded(ctx context.Context, dir *rundir.Dir, left []netns.ID, log *slog.Logger) error {
	for {
		all, err := FindCarriers(dir, log)
		if err != nil {
			return err
		}
		unneeded := map[netns.ID]bool{}
		left = slices.DeleteFunc(slices.Clone(left), func(id netns.ID) bool {
			needed := !all.In(id).None()
			if !needed {
				unneeded[id] = true
			}
			return !needed
		})
		if len(unneeded) == 0 || handover.OthersDrain(dir) { // the last of these looks
			return nil
		}
		unlock, err := handover.LockHost(ctx, dir.String(), log)
		if errors.Is(err, handover.ErrServed) {
			return nil
		}
		if err == nil {
			err = sweepAll(ctx, dir, unneeded, log)
			unlock()
		}
		if err != nil {
			return err
		}
	}
}

// sweepAll removes what is unhooked, and led to by no daemon's socket, in the namespaces unneeded.
// The caller has the lock.
func sweepAll(ctx context.Context, dir *rundir.Dir, unneeded map[netns.ID]bool, log *slog.Logger) error {
	all, err := FindCarriers(dir, log)
	if err != nil {
		return err
	}
	// A daemon in mode link has no lock of the host's, and may drain with its chain unhooked.
	if live, err := control.Live(dir); err != nil {
		return err
	} else if own, err := netns.IDOrOwn(nil); err == nil && len(live) > 0 {
		delete(unneeded, own)
	}
	var living *living
	return everywhere(ctx, log, func(ctx context.Context, rules filter.Rules, ns *netns.Namespace) error {
		if !unneeded[ns.ID()] || !all.In(ns.ID()).None() {
			return nil
		}
		if living == nil {
			living = findLiving(ctx, rules)
		}
		if err := living.sweep(ctx, ns, log); err != nil {
			return fmt.Errorf("%s: %w", ns.Path(), err)
		}
		return nil
	})
}

// sweep removes what was left in ns, which no process needs any more.
func (l *living) sweep(ctx context.Context, ns *netns.Namespace, log *slog.Logger) error {
	if by, err := l.servedBy(ctx, ns); err != nil || by != "" {
		return err
	}
	left, err := leftBehind(ctx, l.rules, ns)
	if err != nil || !left {
		return err
	}
	removed, err := removeAll(ctx, l.rules, ns)
	for _, one := range removed {
		log.Info("removed the rules that were left for connections of a daemon that is gone", "namespace", one.Namespace,
			"family", one.Family.String(), "chains", one.Chains, "addresses", one.Addrs)
	}
	return err
}

// leftBehind reports whether there are chains of ours in ns, and none of them is hooked: a daemon
// has left them for connections that another process carried.
func leftBehind(ctx context.Context, rules filter.Rules, ns *netns.Namespace) (there bool, err error) {
	for _, f := range netrules.Families() {
		states, err := rules.ReadElsewhere(ctx, ns, f)
		if errors.Is(err, netrules.ErrUnsupported) {
			continue
		}
		if err != nil {
			return false, err
		}
		here, err := rules.Read(ctx, ns, f)
		if err != nil && !errors.Is(err, netrules.ErrUnsupported) {
			return false, err
		}
		for _, state := range append(states, here) {
			ours := state.Ours()
			if slices.ContainsFunc(ours, func(name string) bool { return len(state.Jumps(name)) > 0 }) {
				return false, nil
			}
			there = there || len(ours) > 0
		}
	}
	return there, nil
}

// anyChain reports whether there is a chain of ours in ns, however it got there.
func anyChain(rules filter.Rules, ns *netns.Namespace) (bool, error) {
	for _, f := range netrules.Families() {
		for _, chains := range []func(*netns.Namespace, netrules.Family) ([]string, error){rules.Chains, rules.Elsewhere} {
			found, err := chains(ns, f)
			if len(found) > 0 || err != nil && !errors.Is(err, netrules.ErrUnsupported) {
				return true, err
			}
		}
	}
	return false, nil
}

// removeAll removes all of ours from a namespace, the addresses of mode host after the chains,
// lest these lead to an address that is gone. It returns what it has removed, of each family.
func removeAll(ctx context.Context, rules filter.Rules, ns *netns.Namespace) ([]Removed, error) {
	leases, err := ns.Leases()
	errs := []error{err}
	found, err := rules.Remove(ctx, ns)
	if err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", ns.Path(), err))
	}
	var all []Removed
	for _, f := range netrules.Families() {
		removed := Removed{Namespace: ns.Path(), Family: f, Chains: found[f]}
		for _, addr := range leases {
			if netrules.FamilyOf(addr) != f {
				continue
			}
			if err := ns.EndLease(addr); err != nil {
				errs = append(errs, err)
				continue
			}
			removed.Addrs = append(removed.Addrs, addr)
		}
		if len(removed.Chains)+len(removed.Addrs) > 0 {
			all = append(all, removed)
		}
	}
	return all, errors.Join(errs...)
}
