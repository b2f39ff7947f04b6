package agent

import (
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// lanes bound in how many namespaces rules are worked on at once: each takes a handful of
// processes, where iptables makes them. Those in which there are thousands of rules of others, which a
// container with NET_ADMIN may make, take a hundred times as long; they have a lane of
// their own and wait there for each other, while all others pass them by.
type lanes struct {
	rules        filter.Rules // nil when no mode needs rules
	usual, heavy chan struct{}
}

// heavyLane is in how many heavy namespaces at once: more would take the processors from
// the others although they leave them their slots.
const heavyLane = 1

func newLanes(a *agent, usual int) *lanes {
	return &lanes{rules: a.rules, usual: make(chan struct{}, usual), heavy: make(chan struct{}, heavyLane)}
}

// enter waits for its turn to work on the rules of ns, which is nil while it is not open.
// leave has to follow.
func (l *lanes) enter(ns *netns.Namespace) (leave func()) {
	l.usual <- struct{}{}
	if ns == nil || l.rules == nil || !l.weighs(ns) {
		return func() { <-l.usual }
	}
	<-l.usual
	l.heavy <- struct{}{}
	return func() { <-l.heavy }
}

// weighs reports whether ns is heavy. Where that cannot be said, the work itself fails, and
// says why.
func (l *lanes) weighs(ns *netns.Namespace) bool {
	heavy, err := l.rules.Heavy(ns)
	return err == nil && heavy
}
