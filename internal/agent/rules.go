package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
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
func removeRules(ctx context.Context, dir *rundir.Dir, force bool, log *slog.Logger, report func(Removed)) (left []claim.Need, err error) {
	var all claim.Carriers
	if !force {
		if all, err = findCarriers(dir, log); err != nil {
			return nil, err
		}
		all = withDraining(all, dir)
	}
	var living *living
	err = everywhere(ctx, log, func(rules *iptables.Rules, ns *netns.Namespace) error {
		if living == nil && !force {
			living = findLiving(ctx, rules)
		}
		if living != nil {
			by, err := living.servedBy(ctx, ns)
			if err != nil {
				return fmt.Errorf("%s: %w", ns.Path(), err)
			}
			if by != "" {
				report(Removed{Namespace: ns.Path(), Kept: by})
				return nil
			}
		}
		var errs []error
		stays := false
		for _, f := range families() {
			need := claim.Need{Namespace: ns.ID(), Family: f}
			if others := all.Of(need); !others.None() {
				there, err := living.unhookFamily(ctx, ns, f)
				if errs = append(errs, err); there {
					stays, left = true, append(left, need)
					report(Removed{Namespace: ns.Path(), Family: f, Carried: others.String()})
				}
				continue
			}
			removed, err := removeFamily(ctx, rules, ns, f)
			if errs = append(errs, err); len(removed.Chains)+len(removed.Addrs) > 0 {
				report(removed)
			}
		}
		if !stays {
			errs = append(errs, dropAnchor(ns, log))
		}
		return errors.Join(errs...)
	})
	return left, err
}

// everywhere calls do for every network namespace of this host. It goes on after an
// error and returns them all; namespaces that cannot be looked into are logged.
func everywhere(ctx context.Context, log *slog.Logger, do func(*iptables.Rules, *netns.Namespace) error) error {
	rules, err := iptables.New(ctx)
	if err != nil {
		return err
	}
	namespaces, err := netns.All(ctx)
	if err != nil {
		log.Warn("some network namespaces were not looked into", "error", err)
	}
	var errs []error
	for _, ns := range namespaces {
		errs = append(errs, do(rules, ns))
		ns.Close()
	}
	return errors.Join(errs...)
}

func families() []netrules.Family { return []netrules.Family{netrules.IPv4, netrules.IPv6} }

func familyOf(addr netip.Addr) netrules.Family {
	if addr.Is6() {
		return netrules.IPv6
	}
	return netrules.IPv4
}

// unhookOwn unhooks the chains in our own namespace, which are those of mode m.
func (a *agent) unhookOwn(m config.Mode, applied []netrules.Family) {
	a.takeDownOwn(m, applied, func(ctx context.Context, f netrules.Family) error {
		_, err := a.rules.Unhook(ctx, nil, f)
		return err
	})
}

// removeOwn removes them, but for those that connections need which others carry.
func (a *agent) removeOwn(m config.Mode, applied []netrules.Family) {
	a.takeDownOwn(m, applied, func(ctx context.Context, f netrules.Family) error {
		if a.mustStay(nil, f) {
			_, err := a.rules.Unhook(ctx, nil, f)
			return err
		}
		_, err := removeFrom(ctx, a.rules, nil, f)
		return err
	})
}

// takeDownOwn tries a step for every family, and minds where it fails for one that we
// applied. The agent's context has ended by then; every step bounds itself.
func (a *agent) takeDownOwn(m config.Mode, applied []netrules.Family, step func(context.Context, netrules.Family) error) {
	if a.tuned().cfg.KeepRules || !a.owns() {
		return
	}
	for _, f := range families() {
		if err := step(context.Background(), f); err != nil && slices.Contains(applied, f) {
			a.log.Error("cannot remove the rules of mode "+string(m), "family", f.String(), "error", err,
				"hint", "run: ambassadord rules remove")
		}
	}
}

func removeFrom(ctx context.Context, rules *iptables.Rules, ns *netns.Namespace, f netrules.Family) (iptables.Removed, error) {
	removed, err := rules.Remove(ctx, ns, f)
	switch {
	case errors.Is(err, iptables.ErrUnsupported):
		return iptables.Removed{}, nil
	case err == nil && removed.MadeTable:
		err = rules.DropTable(ctx, ns, f)
	}
	return removed, err
}
