package agent

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
	"github.com/ambassadord/ambassadord/netrules/iptables"
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
// these have ended: the keeper itself may not. carrier ends with the keeper, whose claim in
// folder is name. Meanwhile the addresses of mode host that the connections are to are
// renewed. What is hooked is a daemon's, or was left for the next one, and stays.
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
	needed := neededBy(dir, name)
	for over := false; !over; {
		renewKept(needed, log)
		select {
		case <-ended:
			over = true
		case <-ticker.C:
		}
		var now claim.Needs
		if over {
			awaitEnd(dir, name)
		} else {
			now = neededBy(dir, name)
		}
		var gone []claim.Need
		for need := range needed {
			if now[need] == 0 {
				gone = append(gone, need)
			}
		}
		needed = now
		if err := removeUnneeded(ctx, dir, gone, log); err != nil {
			log.Error("cannot remove all rules that were left for connections of a daemon that is gone", "error", err, "hint", "run: ambassadord rules remove")
		}
	}
	return nil
}

// awaitEnd returns when nobody has the claim name any more, or after endPatience. The descriptors
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

// neededBy is what the process needs that has the claim name.
func neededBy(dir *rundir.Dir, name string) claim.Needs {
	c, _ := claim.ByName(dir, name)
	return c.Needs
}

// renewKept renews the addresses of mode host, of our own namespace, that connections need.
func renewKept(needed claim.Needs, log *slog.Logger) {
	var own *netns.Namespace
	id, err := idOf(own)
	if err != nil || needed[claim.Need{Namespace: id, Family: netrules.IPv4}]+needed[claim.Need{Namespace: id, Family: netrules.IPv6}] == 0 {
		return
	}
	leases, err := own.Leases()
	if err != nil {
		log.Warn("cannot look for addresses of mode host", "error", err)
		return
	}
	for _, addr := range leases {
		if needed[claim.Need{Namespace: id, Family: familyOf(addr)}] == 0 {
			continue
		}
		if _, err := own.Lease(addr, keptLease); err != nil {
			log.Warn("cannot renew an address that live connections use", "address", addr.String(), "error", err)
		}
	}
}

// removeUnneeded removes those of left that nobody needs any more, if no daemon serves the
// host. If one does, or removes rules, it will look itself, after it has let go of the lock;
// and so do we: whatever ends while we have it.
func removeUnneeded(ctx context.Context, dir *rundir.Dir, left []claim.Need, log *slog.Logger) error {
	for {
		all, err := findCarriers(dir, log)
		if err != nil {
			return err
		}
		left = slices.Clone(left)
		unneeded := map[netns.ID]bool{}
		left = slices.DeleteFunc(left, func(need claim.Need) bool {
			needed := !all.Of(need).None()
			if !needed {
				unneeded[need.Namespace] = true
			}
			return !needed
		})
		if len(unneeded) == 0 || handover.OthersDrain(dir) { // the last of these looks
			return nil
		}
		unlock, err := lock(ctx, dir.String(), log)
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

// sweepAll removes what is unhooked and nobody's in the namespaces unneeded. We have the lock.
func sweepAll(ctx context.Context, dir *rundir.Dir, unneeded map[netns.ID]bool, log *slog.Logger) error {
	all, err := findCarriers(dir, log)
	if err != nil {
		return err
	}
	// A daemon in mode link has no lock of the host's, and may drain with its chain unhooked.
	if live, err := control.Live(dir); err != nil {
		return err
	} else if own, err := idOf(nil); err == nil && len(live) > 0 {
		delete(unneeded, own)
	}
	var living *living
	return everywhere(ctx, log, func(rules *iptables.Rules, ns *netns.Namespace) error {
		if !unneeded[ns.ID()] {
			return nil
		}
		if living == nil {
			living = findLiving(ctx, rules)
		}
		if err := living.sweep(ctx, ns, all, log); err != nil {
			return fmt.Errorf("%s: %w", ns.Path(), err)
		}
		return nil
	})
}

// sweep removes from ns the chains that were left and that nobody needs any more.
func (l *living) sweep(ctx context.Context, ns *netns.Namespace, all claim.Carriers, log *slog.Logger) error {
	if by, err := l.servedBy(ctx, ns); err != nil || by != "" {
		return err
	}
	var errs []error
	for _, f := range families() {
		if !all.Of(claim.Need{Namespace: ns.ID(), Family: f}).None() {
			continue
		}
		left, err := l.leftBehind(ctx, ns, f)
		if err != nil || !left {
			errs = append(errs, err)
			continue
		}
		removed, err := removeFamily(ctx, l.rules, ns, f)
		if errs = append(errs, err); len(removed.Chains)+len(removed.Addrs) > 0 {
			log.Info("removed the rules that were left for connections of a daemon that is gone", "namespace", ns.Path(),
				"family", f.String(), "chains", removed.Chains, "addresses", removed.Addrs)
		}
	}
	if !all.AnyIn(ns.ID()) {
		errs = append(errs, l.dropLastAnchor(ns, log))
	}
	return errors.Join(errs...)
}

// leftBehind reports whether there are chains of ours in ns, and none of them is hooked:
// somebody has left them for connections that another process carried.
func (l *living) leftBehind(ctx context.Context, ns *netns.Namespace, f netrules.Family) (there bool, err error) {
	for _, rules := range []*iptables.Rules{l.rules, l.other} {
		if rules == nil {
			continue
		}
		chains, err := rules.Chains(ns, f)
		if errors.Is(err, iptables.ErrUnsupported) || err == nil && len(chains) == 0 {
			continue
		}
		if err != nil {
			return false, err
		}
		state, err := rules.Read(ctx, ns, f)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(state.Ours(), func(name string) bool { return len(state.Jumps(name)) > 0 }) {
			return false, nil
		}
		there = true
	}
	return there, nil
}

// dropLastAnchor drops the anchor of a namespace in which there is no chain of ours any more.
func (l *living) dropLastAnchor(ns *netns.Namespace, log *slog.Logger) error {
	for _, f := range families() {
		if chains, err := l.rules.Chains(ns, f); err != nil && !errors.Is(err, iptables.ErrUnsupported) || len(chains) > 0 {
			return err
		}
	}
	return dropAnchor(ns, log)
}

// removeFamily removes all of ours of one family from a namespace, the addresses of mode host
// after the chain, lest that lead to where nobody is.
func removeFamily(ctx context.Context, rules *iptables.Rules, ns *netns.Namespace, f netrules.Family) (Removed, error) {
	removed := Removed{Namespace: ns.Path(), Family: f}
	var errs []error
	found, err := removeFrom(ctx, rules, ns, f)
	if err != nil {
		errs = append(errs, fmt.Errorf("%s, %s: %w", ns.Path(), f, err))
	}
	removed.Chains = found.Chains
	leases, err := ns.Leases()
	errs = append(errs, err)
	for _, addr := range leases {
		if familyOf(addr) != f {
			continue
		}
		if err := ns.EndLease(addr); err != nil {
			errs = append(errs, err)
			continue
		}
		removed.Addrs = append(removed.Addrs, addr)
	}
	return removed, errors.Join(errs...)
}

// unhookFamily unhooks the chains of ours of one family in a namespace, in both packet filters,
// and reports whether there are any.
func (l *living) unhookFamily(ctx context.Context, ns *netns.Namespace, f netrules.Family) (there bool, err error) {
	for _, rules := range []*iptables.Rules{l.rules, l.other} {
		if rules == nil {
			continue
		}
		chains, err := rules.Chains(ns, f)
		if err == nil && len(chains) > 0 {
			there = true
			_, err = rules.Unhook(ctx, ns, f)
		}
		if err != nil && !errors.Is(err, iptables.ErrUnsupported) {
			return there, err
		}
	}
	return there, nil
}
