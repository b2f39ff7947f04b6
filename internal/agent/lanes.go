package agent

import (
	"sync"

	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// lanes bound in how many namespaces rules are worked on at once: each takes a handful of
// processes, where iptables makes them. Those in which there are thousands of rules of others, which a
// container with NET_ADMIN may make, take a hundred times as long; they have a lane of
// their own and wait there for each other, while all others pass them by.
//
// Who is looked at for the first time goes before who is looked at again: a container whose ports
// nobody serves yet waits for nobody whose rules are merely looked after.
type lanes struct {
	rules filter.Rules // nil when no mode needs rules
	heavy chan struct{}

	mu           sync.Mutex
	free         int             // usual slots
	first, again []chan struct{} // who waits for one, closed when it is theirs
	passed       int             // how many have been let by since the last that was looked at again
}

const (
	// heavyLane is in how many heavy namespaces at once: more would take the processors from
	// the others although they leave them their slots.
	heavyLane = 1
	// mostPassed is how many go before one that is to be looked at again, so that these get
	// their turn however many there are.
	mostPassed = 8
)

func newLanes(a *agent, usual int) *lanes {
	return &lanes{rules: a.rules, heavy: make(chan struct{}, heavyLane), free: usual}
}

// enter waits for its turn to work on the rules of ns, which is nil while it is not open.
// leave has to follow.
func (l *lanes) enter(ns *netns.Namespace) (leave func()) { return l.enterBy(&l.first, ns) }

// enterAgain is enter for a namespace that is served.
func (l *lanes) enterAgain(ns *netns.Namespace) (leave func()) { return l.enterBy(&l.again, ns) }

func (l *lanes) enterBy(queue *[]chan struct{}, ns *netns.Namespace) (leave func()) {
	l.await(queue)
	if ns == nil || l.rules == nil || !l.weighs(ns) {
		return l.leave
	}
	l.leave()
	l.heavy <- struct{}{}
	return func() { <-l.heavy }
}

// await waits in a queue for a usual slot.
func (l *lanes) await(queue *[]chan struct{}) {
	turn := make(chan struct{})
	l.mu.Lock()
	*queue = append(*queue, turn)
	l.grant()
	l.mu.Unlock()
	<-turn
}

// leave gives a usual slot back.
func (l *lanes) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free++
	l.grant()
}

// grant gives the slots that are free to those who wait, under the lock.
func (l *lanes) grant() {
	for l.free > 0 && len(l.first)+len(l.again) > 0 {
		queue := &l.first
		switch {
		case len(l.again) == 0:
		case len(l.first) == 0 || l.passed >= mostPassed:
			queue, l.passed = &l.again, 0
		default:
			l.passed++
		}
		close((*queue)[0])
		*queue = (*queue)[1:]
		l.free--
	}
}

// weighs reports whether ns is heavy. Where that cannot be said, the work itself fails, and
// says why.
func (l *lanes) weighs(ns *netns.Namespace) bool {
	heavy, err := l.rules.Heavy(ns)
	return err == nil && heavy
}
