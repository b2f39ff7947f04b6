package attach

import (
	"context"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// earlyWork is what is done in an early namespace: *earlyNamespace. runEarly says when.
type earlyWork interface {
	prepare(ctx context.Context) error // accepts first, and then redirects all that may be declared
	await(ctx context.Context) bool    // returns when the state is not prepared any more, or true when there is more to redirect
	extend(ctx context.Context)        // redirects what there is more
	serveRest(ctx context.Context)     // serves what was prepared beside, for the last time
	leaveBehind(ctx context.Context)   // ends the work for another daemon, which goes on with what is there
	unhook()                           // redirects nothing any more, and closes the sockets
	drained() <-chan struct{}          // lets no connection in any more; closed when all have ended
	clear()                            // removes the rest, and lets go of the namespace
}

// runEarly works on an early namespace until its life is over. One goroutine runs it. The sockets and
// rules that it leaves in the namespace belong to the attachment if the life ends as handedOver or surrendered, and to
// another daemon if it ends as leftBehind.
func runEarly(ctx context.Context, life *earlyLife, work earlyWork) {
	defer life.on(ends)
	if err := work.prepare(ctx); err != nil { // no harm is done: an attachment tries again, and says what is wrong
		life.on(fails)
	} else {
		life.on(prepares)
	}
	for work.await(ctx) {
		work.extend(ctx)
	}
	work.serveRest(ctx)
	switch state, _ := life.now(); state {
	case leaving, leavingKnown:
		work.leaveBehind(ctx)
	case claimed: // all of it is handed over
	default:
		letGo(life, work)
	}
}

// letGo undoes what was prepared. Connections that came through the rules need the chain to the end,
// so that goes last (see filter.Rules.Remove), and stays if an attachment wants the namespace by
// then: that replaces it.
func letGo(life *earlyLife, work earlyWork) {
	work.unhook()
	life.on(unhooks)
	drained := work.drained()
	for {
		state, changed := life.now()
		if state != unhooked { // it is surrendering
			return
		}
		select {
		case <-drained:
			if life.on(empties) {
				work.clear()
				return
			}
		case <-changed:
		}
	}
}

// await is part of earlyWork. It decides itself when the daemon ends, the namespace is unmounted, or
// no owner has been known for unclaimedPatience.
func (e *earlyNamespace) await(ctx context.Context) (more bool) {
	unclaimed := time.NewTimer(unclaimedPatience)
	defer unclaimed.Stop()
	look := time.NewTicker(mountedInterval)
	defer look.Stop()
	for {
		state, changed := e.life.now()
		if state != prepared {
			return false
		}
		select {
		case <-changed:
		case <-e.more:
			return true
		case <-ctx.Done():
			e.life.decide(verdict{})
		case <-unclaimed.C:
			if e.Hold.Away() != nil { // it may have an owner all the same
				unclaimed.Reset(unclaimedPatience)
				continue
			}
			e.life.decide(verdict{})
		case <-look.C:
			if !sandbox.Mounted(e.path) {
				e.life.decide(verdict{dead: true})
			}
		}
	}
}

// extend is part of earlyWork.
func (e *earlyNamespace) extend(ctx context.Context) {
	e.serveOffered(ctx, false)
	if err := e.redirect(ctx); err != nil { // what is prepared already stays so
		e.Log.Debug("a new network namespace was not prepared for more ports", "namespace", e.path, "error", err)
	}
}

// serveRest is part of earlyWork.
func (e *earlyNamespace) serveRest(ctx context.Context) { e.serveOffered(ctx, true) }

// serveOffered serves what was prepared beside us. If last, no more is.
func (e *earlyNamespace) serveOffered(ctx context.Context, last bool) {
	for _, made := range e.offered.take(last) {
		if e.ns == nil {
			made.Close()
			continue
		}
		e.adoptMade(ctx, made, e)
	}
}

// leaveBehind is part of earlyWork. The early rules go with our process, so iptables has to have
// all that is wanted.
func (e *earlyNamespace) leaveBehind(ctx context.Context) {
	if e.ns != nil && len(e.redirects.lacks()) > 0 {
		if err := e.redirect(ctx); err != nil {
			e.Log.Debug("a new network namespace was not prepared for another daemon", "namespace", e.path, "error", err)
		}
	}
	e.redirects.end()
	e.surplus.drop()
}

// unhook is part of earlyWork. Connections that the kernel has accepted are let in before the
// sockets are closed.
func (e *earlyNamespace) unhook() {
	if e.ns == nil {
		return
	}
	e.undo(e.Rules.Unhook)
	e.redirects.unhook()
	e.surplus.unhook()
	e.admit()
	e.stopListening()
}

// drained is part of earlyWork.
func (e *earlyNamespace) drained() <-chan struct{} { return e.inFlight.left() }

// clear is part of earlyWork.
func (e *earlyNamespace) clear() {
	if e.ns == nil {
		return
	}
	e.undo(func(ctx context.Context, ns *netns.Namespace) error {
		_, err := e.Rules.Remove(ctx, ns)
		return err
	})
	e.redirects.end()
	e.surplus.end()
	e.close()
}

// admit waits until all connections that the kernel has accepted are in flight for us: those
// that are still on their way from there would be reset with the socket, or turned
// away. No new ones come, for nothing is redirected any more.
func (e *earlyNamespace) admit() {
	if e.life.verdict.dead {
		return
	}
	const look = time.Millisecond
	for end := time.Now().Add(OwnerPatience); e.expects() && time.Now().Before(end); {
		time.Sleep(look)
	}
}

// expects reports whether the kernel has accepted a connection that has not come to Route.
func (e *earlyNamespace) expects() bool {
	for f := range e.listening {
		accepted, err := e.ns.Accepted(netip.AddrPortFrom(netrules.Loopback(f), e.listen))
		if err == nil && slices.ContainsFunc(accepted, func(source netip.AddrPort) bool { return !e.inFlight.has(source) }) {
			return true
		}
	}
	return false
}

// undo takes rules down, unless they have died with their namespace. The context
// of runEarly may have ended by then; every step bounds itself.
func (e *earlyNamespace) undo(do func(context.Context, *netns.Namespace) error) {
	if e.life.verdict.dead || !e.applied {
		return
	}
	defer e.slots.Enter(e.ns)()
	if err := do(context.Background(), e.ns); err != nil {
		e.Log.Error("cannot remove the rules of a container", "namespace", path.Base(e.path), "error", err,
			"hint", "run: ambassadord rules remove")
	}
}
