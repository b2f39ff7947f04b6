package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Removed is what RemoveRules took out of one network namespace.
type Removed struct {
	Namespace string // the path that it was found at
	Family    netrules.Family
	Chains    []string
	Addrs     []netip.Addr // of mode host
	// Kept says, in place of all that, which daemon serves this namespace.
	Kept string
	// Carried says, in place of chains and addresses, who carries connections that came by
	// the rules, and how many: these are unhooked, and go with the last of them.
	Carried string
}

// RemoveRules removes every chain of ours, and what a killed daemon left of the
// addresses of mode host, from every network namespace of this host, in both of the
// kernel's packet filters, with no daemon and no engine needed. It goes on after an
// error and returns them all. While a daemon serves this host it refuses, and what a daemon
// elsewhere serves it leaves alone and reports, unless force. What connections came by that
// others carry, the keeper of a daemon that was killed or a daemon that has handed over, is
// unhooked alone and reported, unless force.
// Namespaces that cannot be looked into are logged: they are those of processes
// that even root may not trace, which no container's are.
func RemoveRules(ctx context.Context, folder string, force bool, log *slog.Logger, report func(Removed)) error {
	if force {
		_, err := removeRules(ctx, nil, true, log, report)
		return err
	}
	dir, err := rundir.Open(folder)
	if err != nil {
		return err
	}
	unlock, err := lock(ctx, folder, log)
	if err != nil {
		return err
	}
	left, err := removeRules(ctx, dir, false, log, report)
	unlock()
	return errors.Join(err, removeUnneeded(ctx, dir, left, log))
}

// removeRules is RemoveRules; the caller has the lock, or forces it. It returns what it has
// left for connections that others carry.
func removeRules(ctx context.Context, dir *rundir.Dir, force bool, log *slog.Logger, report func(Removed)) (left []netns.ID, err error) {
	r := removal{force: force, report: report}
	if !force {
		if err := r.findCarriers(dir, log); err != nil {
			return nil, err
		}
	}
	err = everywhere(ctx, log, r.in)
	return r.left, err
}

// removal removes rules of ours, namespace by namespace, but for what others need, unless force.
type removal struct {
	force  bool
	report func(Removed)

	carriers claim.Carriers
	living   *living    // nil before the first
	left     []netns.ID // what was unhooked alone, for connections that others carry
}

func (r *removal) findCarriers(dir *rundir.Dir, log *slog.Logger) error {
	all, err := findCarriers(dir, log)
	r.carriers = withDraining(all, dir)
	return err
}

// in removes the rules in ns.
func (r *removal) in(ctx context.Context, rules filter.Rules, ns *netns.Namespace) error {
	if !r.force {
		if r.living == nil {
			r.living = findLiving(ctx, rules)
		}
		by, err := r.living.servedBy(ctx, ns)
		if err != nil {
			return fmt.Errorf("%s: %w", ns.Path(), err)
		}
		if by != "" {
			r.report(Removed{Namespace: ns.Path(), Kept: by})
			return nil
		}
	}
	if others := r.carriers.In(ns.ID()); !others.None() {
		there, err := anyChain(rules, ns)
		if err != nil || !there {
			return err
		}
		r.left = append(r.left, ns.ID())
		r.report(Removed{Namespace: ns.Path(), Carried: others.String()})
		return rules.Unhook(ctx, ns)
	}
	removed, err := removeAll(ctx, rules, ns)
	for _, one := range removed {
		r.report(one)
	}
	return err
}

// everywhere calls do for every network namespace of this host. It goes on after an
// error and returns them all; namespaces that cannot be looked into are logged.
func everywhere(ctx context.Context, log *slog.Logger, do func(context.Context, filter.Rules, *netns.Namespace) error) error {
	rules, err := filter.Open(ctx, filter.Auto)
	if err != nil {
		return err
	}
	return everyNamespace(ctx, log, func(ns *netns.Namespace) error { return do(ctx, rules, ns) })
}

// everyNamespace is everywhere without rules.
func everyNamespace(ctx context.Context, log *slog.Logger, do func(*netns.Namespace) error) error {
	namespaces, err := netns.All(ctx)
	if err != nil {
		log.Warn("some network namespaces were not looked into", "error", err)
	}
	var errs []error
	for _, ns := range namespaces {
		errs = append(errs, do(ns))
		ns.Close()
	}
	return errors.Join(errs...)
}

func familyOf(addr netip.Addr) netrules.Family {
	if addr.Is6() {
		return netrules.IPv6
	}
	return netrules.IPv4
}

// unhookOwn unhooks the chains in our own namespace, which are those of mode m, for the
// families that were applied.
func (a *agent) unhookOwn(m config.Mode, applied []netrules.Family) {
	a.takeDownOwn(m, applied, a.rules.Unhook)
}

// removeOwn removes them, but for those that connections need which others carry.
func (a *agent) removeOwn(m config.Mode, applied []netrules.Family) {
	a.takeDownOwn(m, applied, func(ctx context.Context, ns *netns.Namespace) error {
		if a.mustStay(nil) {
			return a.rules.Unhook(ctx, ns)
		}
		_, err := a.rules.Remove(ctx, ns)
		return err
	})
}

// takeDownOwn does a step in our own namespace, and minds where it fails if we have applied
// anything. The agent's context has ended by then; every step bounds itself.
func (a *agent) takeDownOwn(m config.Mode, applied []netrules.Family, step func(context.Context, *netns.Namespace) error) {
	if a.tuned().cfg.KeepRules || !a.owns() {
		return
	}
	if err := step(context.Background(), nil); err != nil && len(applied) > 0 {
		a.log.Error("cannot remove the rules of mode "+string(m), "error", err, "hint", "run: ambassadord rules remove")
	}
}
