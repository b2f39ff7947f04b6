package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

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
}

// RemoveRules removes every chain of ours from every network namespace of this
// host, in both of the kernel's packet filters, with no daemon and no engine
// needed. It goes on after an error and
// returns them all. While a daemon serves this host it refuses, unless force.
// Namespaces that cannot be looked into are logged: they are those of processes
// that even root may not trace, which no container's are.
func RemoveRules(ctx context.Context, force bool, log *slog.Logger, report func(Removed)) error {
	if !force {
		unlock, err := lock()
		if err != nil {
			return err
		}
		defer unlock()
	}
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
		for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
			removed, err := removeFrom(ctx, rules, ns, f)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %w", ns.Path(), f, err))
			}
			if len(removed.Chains) > 0 {
				report(Removed{Namespace: ns.Path(), Family: f, Chains: removed.Chains})
			}
		}
		if err := anchor.Drop(ns); err != nil && !errors.Is(err, anchor.ErrUnsupported) {
			errs = append(errs, err)
		}
		ns.Close()
	}
	return errors.Join(errs...)
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
