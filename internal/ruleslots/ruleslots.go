// Package ruleslots bounds in how many network namespaces rules are worked on at once: each takes
// a handful of processes, where iptables makes the rules. Namespaces in which there are thousands
// of rules of others, which a container with NET_ADMIN may make, take a hundred times as long;
// they have a slot of their own and wait there for each other, while all others pass them by.
//
// A namespace that is looked at for the first time goes before one that is looked at again: a
// container whose ports are not served yet does not wait for rules that are merely looked after.
package ruleslots

import (
	"sync"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Slots bound in how many network namespaces rules are worked on at once. New makes them.
type Slots struct {
	rules Weigher
	heavy chan struct{}

	mu           sync.Mutex
	free         int             // usual slots
	first, again []chan struct{} // each a call that waits for one; closed when the slot is its
	passed       int             // how many first looks had a slot since the last other one
}

const (
	// heavySlots is in how many heavy namespaces rules are worked on at once: more would take
	// the processors from the others although they leave them their slots.
	heavySlots = 1
	// mostPassed is how many first looks go before one that is to look again, so that the
	// latter get their turn however many of the former there are.
	mostPassed = 8
)

// Weigher says which namespaces are heavy: filter.Rules.
type Weigher interface {
	Heavy(ns *netns.Namespace) (bool, error)
}

// New returns usual slots, and one for heavy namespaces. rules is nil where no rules are made,
// and no namespace is heavy.
func New(rules Weigher, usual int) *Slots {
	return &Slots{rules: rules, heavy: make(chan struct{}, heavySlots), free: usual}
}

// Enter waits for a slot to work on the rules of ns, which is nil while it is not open. The
// caller gives the slot back by leave.
func (s *Slots) Enter(ns *netns.Namespace) (leave func()) { return s.enter(&s.first, ns) }

// EnterAgain is Enter for a namespace that is served.
func (s *Slots) EnterAgain(ns *netns.Namespace) (leave func()) { return s.enter(&s.again, ns) }

func (s *Slots) enter(queue *[]chan struct{}, ns *netns.Namespace) (leave func()) {
	s.await(queue)
	if ns == nil || s.rules == nil || !s.weighs(ns) {
		return s.leave
	}
	s.leave()
	s.heavy <- struct{}{}
	return func() { <-s.heavy }
}

// await waits in a queue for a usual slot.
func (s *Slots) await(queue *[]chan struct{}) {
	turn := make(chan struct{})
	s.mu.Lock()
	*queue = append(*queue, turn)
	s.grant()
	s.mu.Unlock()
	<-turn
}

// leave gives a usual slot back.
func (s *Slots) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	s.grant()
}

// grant gives the slots that are free to the calls that wait, under the lock.
func (s *Slots) grant() {
	for s.free > 0 && len(s.first)+len(s.again) > 0 {
		queue := &s.first
		switch {
		case len(s.again) == 0:
		case len(s.first) == 0 || s.passed >= mostPassed:
			queue, s.passed = &s.again, 0
		default:
			s.passed++
		}
		close((*queue)[0])
		*queue = (*queue)[1:]
		s.free--
	}
}

// weighs reports whether ns is heavy. Where that cannot be known the work itself fails, and its
// error says why.
func (s *Slots) weighs(ns *netns.Namespace) bool {
	heavy, err := s.rules.Heavy(ns)
	return err == nil && heavy
}
