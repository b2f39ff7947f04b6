package cleanup

import (
	"context"
	"errors"
	"slices"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// RemoveStale removes, until ctx ends, what a daemon that is gone has left: in our own namespace, if
// own, that of modes host and link, and in those of containers, if containers, that of mode
// redirect. rules is nil where the daemon has opened none. Rules that stay for connections that
// others carry are noted.
func (s *Staying) RemoveStale(ctx context.Context, rules filter.Rules, own, containers bool) error {
	r := removal{report: func(one Removed) {
		switch {
		case one.Carried != "":
			one.SayCarried(s.Log)
		case one.Kept == "":
			s.Log.Info("removed what a daemon that is gone has left", "namespace", one.Namespace, "family", one.Family.String(),
				"chains", one.Chains, "addresses", one.Addrs)
		}
	}}
	if err := r.findCarriers(s.Dir, s.Log); err != nil {
		return err
	}
	defer func() {
		for _, id := range r.left { // for RemoveUnneeded
			s.Note(id, r.carriers.In(id))
		}
	}()
	if rules == nil { // mode listen may have to do without
		var err error
		if rules, err = filter.Open(ctx, filter.Auto); err != nil {
			s.Log.Debug("not looking for what a daemon that is gone may have left", "error", err)
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
		s.Log.Debug("some network namespaces were not looked into", "error", err)
	}
	for _, ns := range all {
		if ns.ID() != here.ID() && ctx.Err() == nil {
			errs = append(errs, r.stale(ctx, rules, ns, func(k netrules.Kind) bool { return k == netrules.KindRedirect }))
		}
		ns.Close()
	}
	return errors.Join(errs...)
}

// stale is in for a namespace that most likely holds nothing of ours: it removes what is there if
// all of that is of kinds, is hooked, and leads to ports at which no process listens. Rules that
// lead to a listener may be set by rules apply, and connections of a daemon elsewhere may need
// those that are not hooked.
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
