package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/anchor"
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
}

// RemoveRules removes every chain of ours, and what a killed daemon left of the
// addresses of mode host, from every network namespace of this host, in both of the
// kernel's packet filters, with no daemon and no engine needed. It goes on after an
// error and returns them all. While a daemon serves this host it refuses, and what a daemon
// elsewhere serves it leaves alone and reports, unless force.
// Namespaces that cannot be looked into are logged: they are those of processes
// that even root may not trace, which no container's are.
func RemoveRules(ctx context.Context, folder string, force bool, log *slog.Logger, report func(Removed)) error {
	if !force {
		unlock, err := lock(ctx, folder, log)
		if err != nil {
			return err
		}
		defer unlock()
	}
	var living *living
	return everywhere(ctx, log, func(rules *iptables.Rules, ns *netns.Namespace) error {
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
		leases, err := ns.Leases()
		errs := []error{err}
		for _, f := range families() {
			found, err := removeFrom(ctx, rules, ns, f)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %w", ns.Path(), f, err))
			}
			removed := Removed{Namespace: ns.Path(), Family: f, Chains: found.Chains}
			for _, addr := range leases {
				if familyOf(addr) != f {
					continue
				}
				// After the chain, lest that lead to where nobody is.
				if err := ns.EndLease(addr); err != nil {
					errs = append(errs, err)
					continue
				}
				removed.Addrs = append(removed.Addrs, addr)
			}
			if len(removed.Chains)+len(removed.Addrs) > 0 {
				report(removed)
			}
		}
		if err := anchor.Drop(ns); err != nil && !errors.Is(err, anchor.ErrUnsupported) {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
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

// removeOwn removes them.
func (a *agent) removeOwn(m config.Mode, applied []netrules.Family) {
	a.takeDownOwn(m, applied, func(ctx context.Context, f netrules.Family) error {
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
