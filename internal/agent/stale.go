package agent

import (
	"context"
	"errors"
	"sync"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// clearStale removes, in the background until ctx ends, what a daemon that is gone has left
// where none of our modes has rules, since nothing else would come by there: in our own
// namespace, and in those of containers. Who takes over, or has sockets from the service
// manager, knows what there is, and does without.
func (a *agent) clearStale(ctx context.Context) *sync.WaitGroup {
	var clearing sync.WaitGroup
	own := !a.hasMode(config.Host) && !a.hasMode(config.Link)
	containers := !a.hasMode(config.Redirect)
	if a.inherited != nil || !a.needsLock() || !own && !containers {
		return &clearing
	}
	clearing.Go(func() {
		if err := a.removeStale(ctx, own, containers); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot see all that a daemon that is gone may have left", "error", err, "hint", "run: ambassadord rules remove")
		}
	})
	return &clearing
}

func (a *agent) removeStale(ctx context.Context, own, containers bool) error {
	r := removal{report: func(one Removed) {
		if len(one.Chains)+len(one.Addrs) > 0 {
			a.log.Info("removed what a daemon that is gone has left", "namespace", one.Namespace, "family", one.Family.String(),
				"chains", one.Chains, "addresses", one.Addrs)
		}
	}}
	if err := r.findCarriers(a.dir, a.log); err != nil {
		return err
	}
	defer func() {
		for _, id := range r.left { // for removeUnneeded
			a.staying.note(id, r.carriers.In(id))
		}
	}()
	rules := a.rules
	if rules == nil { // mode listen may have to do without
		var err error
		if rules, err = filter.Open(ctx, filter.Auto); err != nil {
			a.log.Debug("not looking for what a daemon that is gone may have left", "error", err)
			return nil
		}
	}
	here, err := netns.Current()
	if err != nil {
		return err
	}
	defer here.Close()
	if own {
		if err := r.stale(ctx, rules, here, true); err != nil {
			return err
		}
	}
	if !containers {
		return nil
	}
	all, err := netns.All(ctx)
	if err != nil { // those of processes that even root may not trace, which no container's are
		a.log.Debug("some network namespaces were not looked into", "error", err)
	}
	var errs []error
	for _, ns := range all {
		if ns.ID() != here.ID() && ctx.Err() == nil {
			errs = append(errs, r.stale(ctx, rules, ns, false))
		}
		ns.Close()
	}
	return errors.Join(errs...)
}

// stale is in for a namespace that most likely holds nothing of ours. In another than our own,
// rules of other modes than redirect are left: somebody may have set them for a daemon that is
// yet to come (rules apply).
func (r *removal) stale(ctx context.Context, rules filter.Rules, ns *netns.Namespace, own bool) error {
	there, err := anyChain(rules, ns)
	if err == nil && !there && own {
		leases, leasesErr := ns.Leases()
		there, err = len(leases) > 0, leasesErr
	}
	if err != nil || !there {
		return err
	}
	if !own {
		if r.living == nil {
			r.living = findLiving(ctx, rules)
		}
		ports, err := r.living.destinations(ctx, ns)
		if err != nil || len(ports) == 0 {
			return err
		}
		for _, kind := range ports {
			if kind != netrules.KindRedirect {
				return nil
			}
		}
	}
	return r.in(ctx, rules, ns)
}
