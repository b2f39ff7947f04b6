package agent

import (
	"context"
	"net/netip"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
)

// directAddr is where mode listen listens for a binding.
func directAddr(f netrules.Family, b binding.Binding) netip.AddrPort {
	return netip.AddrPortFrom(loopback(f), b.Port)
}

// adopt serves the sockets that the daemon before us has left in this namespace, before
// run begins. It touches no rule.
func (at *attachment) adopt(ctx context.Context) {
	if at.agent.owns() { // there is no such daemon, or the sockets of what it did are run's to find
		return
	}
	n := at.desired.Load()
	ns, err := at.agent.openNamespace(ctx, n)
	if err != nil {
		return // as for any other; run tries again
	}
	at.ns, at.inside = ns, ns
	both := netrules.Families()
	if at.mode == config.Listen {
		for _, f := range both {
			for _, b := range n.Bindings() {
				at.inheritDirect(ctx, directAddr(f, b))
			}
		}
	} else {
		for _, f := range both {
			at.inherit(ctx, f, at)
		}
	}
	at.borrowOtherMode(ctx, n, both)
}

// borrowOtherMode serves what the daemon before us has left for another mode, until ours is set
// up.
func (at *attachment) borrowOtherMode(ctx context.Context, n *identity.Namespace, both []netrules.Family) {
	for _, f := range both {
		if at.mode == config.Redirect {
			for _, b := range n.Bindings() {
				if at.inheritDirect(ctx, directAddr(f, b)) {
					at.surplus.sockets = append(at.surplus.sockets, at.direct[directAddr(f, b)])
					delete(at.direct, directAddr(f, b))
				}
			}
			continue
		}
		if at.inherit(ctx, f, at) {
			at.surplus.sockets = append(at.surplus.sockets, at.listening[f])
			delete(at.listening, f)
		}
	}
}

// giveBack ends what leads to us beside our own sockets and rules: in mode listen the rules
// that led there are unhooked, in mode redirect ours are there. What is on its way is still
// accepted.
func (at *attachment) giveBack() {
	if at.mode == config.Listen && len(at.surplus.sockets) > 0 {
		if ns, err := at.ns.Again(); err != nil {
			at.agent.complain(err)
		} else {
			at.agent.leaveOver(ns)
		}
		at.listen = 0
	}
	at.surplus.drop()
}

// adopted: update has adopted everything.
func (as *attachments) adopted(context.Context) error { return nil }

// leave stops all work; sockets and rules stay as they are.
func (as *attachments) leave() {
	as.newcomers.leave()
	for _, at := range as.live {
		close(at.leaving)
	}
	as.wg.Wait()
	as.departed = true
}

// left lets go of the namespaces.
func (as *attachments) left() {
	for _, at := range as.live {
		if at.ns != nil {
			at.close()
		}
	}
	as.newcomers.left()
}

// gone waits until what was let go of before leave is as it was.
func (as *attachments) gone() {}

// settle decides, after leave, to whom the newcomers belong whose connections wait for
// that.
func (as *attachments) settle(table *identity.Table) {
	for _, n := range table.Namespaces() {
		if !attaches(as.mode, n) {
			as.newcomers.decline(n)
			continue
		}
		at := newAttachment(as, n)
		at.end(false) // it attaches to nothing; another daemon does
		as.newcomers.claim(at, n)
	}
}

// leave ends the watch and the work on namespaces that are nobody's yet. What was let
// go of before is seen to its end. The new daemon watches by now; what our process has
// prepared until its end is told of before the watch ends, and left like the rest.
func (ns *newcomers) leave() {
	if ns.stop != nil {
		ns.stop()
	}
	ns.watching.Wait()
	ns.mu.Lock()
	ns.forget()
	there := make([]*newcomer, 0, len(ns.there))
	for _, nc := range ns.there {
		close(nc.leaving)
		there = append(there, nc)
	}
	ns.mu.Unlock()
	for _, nc := range there {
		select {
		case <-nc.unhooked:
		case <-nc.done:
		}
	}
	ns.behind = there
}

// left lets go of the namespaces that leave has kept.
func (ns *newcomers) left() {
	for _, nc := range ns.behind {
		select {
		case <-nc.done:
			if nc.leftBehind && nc.ns != nil {
				nc.close()
			}
		default: // it waits for its guests, and cleans up
		}
	}
}
