package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// leftovers are network namespaces with rules of the old daemon's that we have no use
// for. They are unhooked at once; the chains stay until its last connection has ended,
// which they translate.
type leftovers struct {
	mu    sync.Mutex
	rules filter.Rules // nil before the first
	in    []*netns.Namespace
}

// succeed tidies up after a daemon that has handed over, or has left its sockets with the
// service manager: those that we have no use for, and the rules that led there. It goes on
// in the background until ctx ends.
func (a *agent) succeed(ctx context.Context, session *handover.Session) *sync.WaitGroup {
	var wg sync.WaitGroup
	if session != nil {
		session.Close()
	}
	if a.inherited == nil {
		return &wg
	}
	wg.Go(func() {
		// A container may be just starting, and its sockets be wanted in a moment.
		a.closeLeftovers(a.inherited.RestOf(func(s handover.Socket) bool { return s.Namespace == netns.ID{} }))
		select {
		case <-time.After(leftoverPatience):
		case <-ctx.Done():
		}
		a.closeLeftovers(a.inherited.Rest())
		if a.haveLeftovers() && handover.AwaitDrained(ctx, a.dir) {
			a.dropLeftovers()
		}
	})
	return &wg
}

// closeLeftovers closes sockets that nobody has taken, and unhooks what leads there. Those
// that no rules lead to are closed first: to unhook takes tens of milliseconds, in which
// they would take connections that nobody accepts.
func (a *agent) closeLeftovers(rest []handover.Left) {
	var behindRules []handover.Left
	for _, l := range rest {
		switch l.Role {
		case handover.Redirect, handover.Host, handover.Link:
			behindRules = append(behindRules, l)
		default:
			a.closeLeftover(l)
		}
	}
	for _, l := range behindRules {
		a.unhookFrom(l)
		a.closeLeftover(l)
	}
}

// unhookFrom unhooks the rules that lead to l, if they serve nothing else.
func (a *agent) unhookFrom(l handover.Left) {
	if l.Role != handover.Redirect {
		if !a.hasMode(config.Host) && !a.hasMode(config.Link) {
			a.leaveOver(nil)
		}
		return
	}
	if a.registry.Has(l.Socket) {
		return // the rules are ours; only a family has gone, or it came twice
	}
	ns, err := netns.Of(l.Listener)
	if err != nil {
		a.complain(err)
		return
	}
	a.leaveOver(ns)
}

func (a *agent) closeLeftover(l handover.Left) {
	a.log.Info("closing a socket of the old daemon's", "role", string(l.Role), "address", handover.AddrOf(l.Listener).String())
	a.shelf.discard(l.Socket, l.Listener)
	l.Listener.Close()
}

// leaveOver unhooks what the old daemon has set in ns, which is ours to close from now
// on; nil is our own.
func (a *agent) leaveOver(ns *netns.Namespace) {
	l := &a.leftovers
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules == nil {
		if l.rules = a.rules; l.rules == nil {
			var err error
			if l.rules, err = filter.Open(context.Background(), filter.Auto); err != nil {
				a.complain(err)
				return
			}
		}
	}
	for _, other := range l.in {
		if other == ns || other != nil && ns != nil && other.ID() == ns.ID() {
			if ns != nil {
				ns.Close()
			}
			return
		}
	}
	a.complain(l.rules.Unhook(context.Background(), ns)) // bounds itself
	l.in = append(l.in, ns)
}

func (a *agent) haveLeftovers() bool {
	a.leftovers.mu.Lock()
	defer a.leftovers.mu.Unlock()
	return len(a.leftovers.in) > 0
}

// dropLeftovers removes what leaveOver has left.
func (a *agent) dropLeftovers() {
	l := &a.leftovers
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := cleanup.FindCarriers(a.dir, a.log)
	a.complain(err)
	for _, ns := range l.in {
		id, idErr := netns.IDOrOwn(ns)
		switch {
		case err != nil || idErr != nil: // they are unhooked, and stay
		case all.In(id).None():
			_, err := l.rules.Remove(context.Background(), ns)
			a.complain(err)
		default: // they go when we stop, or later with the last of what needs them
			a.staying.Note(id, all.In(id))
		}
		if ns != nil {
			ns.Close()
		}
	}
	l.in = nil
}

func (a *agent) complain(err error) {
	if err != nil && !errors.Is(err, netrules.ErrUnsupported) {
		a.log.Error("cannot remove rules of the old daemon's", "error", err, "hint", "run: ambassadord rules remove")
	}
}
