package cleanup

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Sockets are the listening sockets of the daemon: *listenset.Set.
type Sockets interface {
	Registry() *handover.Registry // those that are served
	Close(l handover.Left)
}

// Leftovers are network namespaces with rules of the daemon before us that this one has no use
// for. They are unhooked at once; the chains stay until its last connection has ended, which they
// translate.
type Leftovers struct {
	Rules filter.Rules // nil until some are needed, in a daemon whose modes have none
	// KeepOwn says that a mode has rules in our own network namespace, where others are replaced.
	KeepOwn bool
	Sockets Sockets
	Staying *Staying
	Log     *slog.Logger

	mu sync.Mutex
	in []*netns.Namespace // nil is our own
}

// Close closes sockets that nobody has taken, and unhooks what leads there. Those that no rules
// lead to are closed first: to unhook takes tens of milliseconds, in which they would take
// connections that nobody accepts.
func (l *Leftovers) Close(rest []handover.Left) {
	var behindRules []handover.Left
	for _, left := range rest {
		switch left.Role {
		case handover.Redirect, handover.Host, handover.Link:
			behindRules = append(behindRules, left)
		default:
			l.closeSocket(left)
		}
	}
	for _, left := range behindRules {
		l.unhookFrom(left)
		l.closeSocket(left)
	}
}

// unhookFrom unhooks the rules that lead to left, if they serve nothing else.
func (l *Leftovers) unhookFrom(left handover.Left) {
	if left.Role != handover.Redirect {
		if !l.KeepOwn {
			l.Leave(nil)
		}
		return
	}
	if l.Sockets.Registry().Has(left.Socket) {
		return // the rules are ours; only a family has gone, or it came twice
	}
	ns, err := netns.Of(left.Listener)
	if err != nil {
		l.Failed(err)
		return
	}
	l.Leave(ns)
}

func (l *Leftovers) closeSocket(left handover.Left) {
	l.Log.Info("closing a socket of the old daemon's", "role", string(left.Role), "address", handover.AddrOf(left.Listener).String())
	l.Sockets.Close(left)
}

// Leave unhooks what the old daemon has set in ns, which is ours to close from now on; nil is our
// own.
func (l *Leftovers) Leave(ns *netns.Namespace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Rules == nil {
		rules, err := filter.Open(context.Background(), filter.Auto)
		if err != nil {
			l.Failed(err)
			return
		}
		l.Rules = rules
	}
	for _, other := range l.in {
		if other == ns || other != nil && ns != nil && other.ID() == ns.ID() {
			if ns != nil {
				ns.Close()
			}
			return
		}
	}
	l.Failed(l.Rules.Unhook(context.Background(), ns)) // bounds itself
	l.in = append(l.in, ns)
}

// Any reports whether rules were left that Drop is to remove.
func (l *Leftovers) Any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.in) > 0
}

// Drop removes what Leave has left: no daemon before us carries a connection any more.
func (l *Leftovers) Drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := FindCarriers(l.Staying.Dir, l.Log)
	l.Failed(err)
	for _, ns := range l.in {
		id, idErr := netns.IDOrOwn(ns)
		switch {
		case err != nil || idErr != nil: // they are unhooked, and stay
		case all.In(id).None():
			_, err := l.Rules.Remove(context.Background(), ns)
			l.Failed(err)
		default: // they go when we stop, or later with the last of what needs them
			l.Staying.Note(id, all.In(id))
		}
		if ns != nil {
			ns.Close()
		}
	}
	l.in = nil
}

// Failed says that rules stay which were to go; a nil error says nothing.
func (l *Leftovers) Failed(err error) {
	if err != nil && !errors.Is(err, netrules.ErrUnsupported) {
		l.Log.Error("cannot remove rules of the old daemon's", "error", err, "hint", "run: ambassadord rules remove")
	}
}
