// Package cleanup removes rules that no process needs any more: by command (Remove), after the
// connections that outlived a daemon (Sweep, Staying), and where a daemon that starts has rules
// nowhere itself (Staying.RemoveStale).
//
// Three questions decide about a network namespace. Does a daemon serve it? A socket that its
// rules lead to tells (served.go). Do connections need its rules that another process carries,
// a keeper or a daemon that has handed over? Claims in the folder of --run-dir tell (package
// claim); then the rules are unhooked, so that they lead no new connection anywhere, and stay. Is
// something of ours there at all? Only then are processes of iptables worth their cost.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Removed is what was taken out of one network namespace.
type Removed struct {
	Namespace string // the path that it was found at
	Family    netrules.Family
	Chains    []string
	Addrs     []netip.Addr // of mode host
	// Kept says, in place of all that, which daemon serves this namespace.
	Kept string
	// Carried says, in place of chains and addresses, which processes carry connections that
	// came by the rules, and how many: these are unhooked, and go with the last of them.
	Carried string
}

// SayCarried tells log what Carried says.
func (r Removed) SayCarried(log *slog.Logger) {
	log.Warn("rules stay, unhooked, for connections that another process carries; they go with the last of these",
		"namespace", r.Namespace, "carried", r.Carried)
}

// Remove removes every chain of ours, and what a killed daemon left of the
// addresses of mode host, from every network namespace of this host, in both of the
// kernel's packet filters, with no daemon and no engine needed. It goes on after an
// error and returns them all. folder is config.Config.RunDir. While a daemon serves this host
// the error is handover.ErrServed, and what a daemon elsewhere serves stays and is reported,
// unless force. Rules by which connections came that others carry, the keeper of a daemon that
// was killed or a daemon that has handed over, are unhooked alone and reported, unless force.
// Namespaces that cannot be looked into are logged: they are those of processes
// that even root may not trace, which no container's are.
func Remove(ctx context.Context, folder string, force bool, log *slog.Logger, report func(Removed)) error {
	if force {
		_, err := removeRules(ctx, nil, true, log, report)
		return err
	}
	dir, err := rundir.Open(folder)
	if err != nil {
		return err
	}
	unlock, err := handover.LockHost(ctx, folder, log)
	if err != nil {
		return err
	}
	left, err := removeRules(ctx, dir, false, log, report)
	unlock()
	return errors.Join(err, removeUnneeded(ctx, dir, left, log))
}

// removeRules is Remove; the caller has the lock, or forces it. It returns what it has
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
	all, err := FindCarriers(dir, log)
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
	return EachNamespace(ctx, log, func(ns *netns.Namespace) error { return do(ctx, rules, ns) })
}

// EachNamespace calls do for every network namespace of this host, which is closed after that. It
// goes on after an error and returns them all; namespaces that cannot be looked into are logged.
func EachNamespace(ctx context.Context, log *slog.Logger, do func(*netns.Namespace) error) error {
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
