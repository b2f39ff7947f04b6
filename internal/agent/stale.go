package agent

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// clearStale removes, in the background until ctx ends, what a daemon that is gone has left
// where none of our modes has rules, since nothing else would come by there: in our own
// namespace, and in those of containers. Who takes over knows what there is, and does without.
func (a *agent) clearStale(ctx context.Context, clearing *sync.WaitGroup) {
	own := !a.hasMode(config.Host) && !a.hasMode(config.Link)
	containers := !a.hasMode(config.Redirect)
	if a.gate != nil || !a.needsLock() || !own && !containers {
		return
	}
	clearing.Go(func() {
		if err := a.removeStale(ctx, own, containers); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot see all that a daemon that is gone may have left", "error", err, "hint", "run: ambassadord rules remove")
		}
		a.log.Debug("looked for what a daemon that is gone may have left")
	})
}

func (a *agent) removeStale(ctx context.Context, own, containers bool) error {
	r := removal{report: func(one Removed) {
		switch {
		case one.Carried != "":
			a.sayCarried(one)
		case one.Kept == "":
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
	var errs []error
	if own {
		// A container may have joined us, and its rules of mode redirect be our own.
		errs = append(errs, r.stale(ctx, rules, here, func(k netrules.Kind) bool { return containers || k != netrules.KindRedirect }))
	}
	if !containers {
		return errors.Join(errs...)
	}
	all, err := netns.All(ctx)
	if err != nil { // those of processes that even root may not trace, which no container's are
		a.log.Debug("some network namespaces were not looked into", "error", err)
	}
	for _, ns := range all {
		if ns.ID() != here.ID() && ctx.Err() == nil {
			errs = append(errs, r.stale(ctx, rules, ns, func(k netrules.Kind) bool { return k == netrules.KindRedirect }))
		}
		ns.Close()
	}
	return errors.Join(errs...)
}

// stale is in for a namespace that most likely holds nothing of ours, if all of ours there is of
// kinds, is hooked, and leads to nobody. What somebody listens to may be set by rules apply, and
// what is not hooked be needed by connections of a daemon elsewhere.
func (r *removal) stale(ctx context.Context, rules filter.Rules, ns *netns.Namespace, kinds func(netrules.Kind) bool) error {
	there, err := anyChain(rules, ns)
	if err != nil || !there {
		return err
	}
	l := living{rules: rules}
	states, err := l.states(ctx, ns)
	if err != nil {
		return err
	}
	hooked, ports := false, map[uint16]netrules.Kind{}
	for _, state := range states {
		addDestinations(state, ports)
		hooked = hooked || slices.ContainsFunc(state.Ours(), func(name string) bool { return len(state.Jumps(name)) > 0 })
	}
	listening, err := ns.Listeners()
	if err != nil || !hooked || len(ports) == 0 {
		return err
	}
	for port, kind := range ports {
		if len(listening[port]) > 0 || !kinds(kind) {
			return nil
		}
	}
	return r.in(ctx, rules, ns)
}
