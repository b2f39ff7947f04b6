package attach

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
	return netip.AddrPortFrom(netrules.Loopback(f), b.Port)
}

// adopt serves the sockets that the daemon before us has left in this namespace, before
// run begins. It touches no rule.
func (at *attachment) adopt(ctx context.Context) {
	if at.Turn.Ours() { // there is no such daemon, or the sockets of what it did are run's to find
		return
	}
	n := at.desired.Load()
	ns, err := at.Engine.OpenNamespace(ctx, n.Owner)
	if err != nil {
		return // as for any other; run tries again
	}
	at.ns, at.inside = ns, ns
	both := netrules.Families()
	if at.Name == config.Listen {
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
		if at.Name == config.Redirect {
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
	if at.Name == config.Listen && len(at.surplus.sockets) > 0 {
		if ns, err := at.ns.Again(); err != nil {
			at.Leftovers.Failed(err)
		} else {
			at.Leftovers.Leave(ns)
		}
		at.listen = 0
	}
	at.surplus.drop()
}

// leave stops all work; sockets and rules stay as they are.
func (m *Mode) leave() {
	m.early.leave()
	for _, at := range m.live {
		close(at.leaving)
	}
	m.wg.Wait()
	m.departed = true
}

// settle decides, after leave, to whom the early namespaces belong whose connections wait for
// that.
func (m *Mode) settle(table *identity.Table) {
	for _, n := range table.Namespaces() {
		if !attaches(m.Name, n) {
			m.early.decline(n)
			continue
		}
		at := newAttachment(m, n)
		at.end(false) // it attaches to nothing; another daemon does
		m.early.claim(at, n)
	}
}

// leave ends the watch and the work on namespaces that are nobody's yet. What was let
// go of before is seen to its end. The new daemon watches by now; what our process has
// prepared until its end is told of before the watch ends, and left like the rest.
func (s *earlySet) leave() {
	if s.stop != nil {
		s.stop()
	}
	s.watching.Wait()
	s.mu.Lock()
	s.forget()
	there := make([]*earlyNamespace, 0, len(s.there))
	for _, e := range s.there {
		e.life.on(takenOver)
		there = append(there, e)
	}
	s.mu.Unlock()
	for _, e := range there {
		select {
		case <-e.life.unhooked:
		case <-e.life.done:
		}
	}
	s.behind = there
}

// left lets go of the namespaces that leave has kept.
func (s *earlySet) left() {
	for _, e := range s.behind {
		select {
		case <-e.life.done:
			if e.life.in(leftBehind, leftBehindKnown) && e.ns != nil {
				e.close()
			}
		default: // it waits for its guests, and cleans up
		}
	}
}
