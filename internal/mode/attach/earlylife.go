package attach

import (
	"slices"
	"sync"

	"github.com/ambassadord/ambassadord/proxy"
)

// earlyState is how far the life of an early namespace is.
type earlyState uint8

const (
	// While it is not known whose the namespace is:
	preparing earlyState = iota // sockets and rules are being made for the first time
	prepared                    // connections are accepted, and wait for the owner

	// An attachment will serve the owner:
	claimed    // its work in there is being ended
	handedOver // all of it is the attachment's

	// No attachment will, as far as was known then:
	declined     // no container in there declares anything, or the engine has named none in time: the rules are being unhooked
	dead         // likewise, and the namespace is not mounted any more
	claimedLate  // likewise, and an attachment wants the namespace by now
	unhooked     // nothing is redirected; the chain stays for connections in flight
	surrendering // likewise, and the attachment will have the chain
	surrendered  // the chain and the namespace are the attachment's
	clearing     // the last connection has ended: the chain is being removed
	ended        // nothing is left

	// Another daemon goes on with the namespace:
	leaving         // the work in there is being ended, and the owner is not known
	leavingKnown    // likewise, and it is decided what becomes of the connections that have waited
	leftBehind      // the work has ended, and the owner is not known
	leftBehindKnown // likewise, and it is decided what becomes of the connections that have waited
)

// earlyEvent changes the state.
type earlyEvent uint8

const (
	prepares  earlyEvent = iota // the first sockets and rules are there
	fails                       // they could not be made
	claims                      // an attachment will serve the owner
	declines                    // no container in there declares anything, no owner was known for too long, or the daemon ends
	dies                        // the namespace is not mounted any more
	wants                       // the attachment that it was left to waits for what is there
	takenOver                   // another daemon goes on
	unhooks                     // nothing is redirected any more, and no socket listens
	empties                     // the last connection in flight has ended
	ends                        // runEarly does no more work in there
)

// earlyTransitions says what follows on what. An event that is not in a state's row changes
// nothing: the first that decides whose the namespace is counts, what has begun to be let go of is
// seen to its end also when another daemon takes over, and what that goes on with is not touched.
var earlyTransitions = map[earlyState]map[earlyEvent]earlyState{
	preparing:       {prepares: prepared, fails: declined, claims: claimed, declines: declined, dies: dead, takenOver: leaving},
	prepared:        {claims: claimed, declines: declined, dies: dead, takenOver: leaving},
	claimed:         {ends: handedOver},
	handedOver:      {},
	declined:        {wants: claimedLate, unhooks: unhooked},
	dead:            {wants: claimedLate, unhooks: unhooked},
	claimedLate:     {unhooks: surrendering},
	unhooked:        {wants: surrendering, empties: clearing},
	surrendering:    {ends: surrendered},
	surrendered:     {},
	clearing:        {ends: ended},
	ended:           {},
	leaving:         {fails: leavingKnown, claims: leavingKnown, declines: leavingKnown, dies: leavingKnown, ends: leftBehind},
	leavingKnown:    {ends: leftBehindKnown},
	leftBehind:      {claims: leftBehindKnown, declines: leftBehindKnown, dies: leftBehindKnown},
	leftBehindKnown: {},
}

// The milestones of the life, each of which is reached once.
var (
	undecidedStates = []earlyState{preparing, prepared, leaving, leftBehind}
	// In these something may be redirected to the sockets, by us.
	hookedStates = []earlyState{preparing, prepared, claimed, handedOver, declined, dead, claimedLate, leaving, leavingKnown}
	finalStates  = []earlyState{handedOver, surrendered, ended, leftBehind, leftBehindKnown}
)

// verdict is what becomes of the connections of an early namespace. The zero value is: no
// attachment has claimed it, and they go where they were meant to.
type verdict struct {
	owner  *attachment  // that will serve them; nil if none will
	client proxy.Client // whose they are, if that is known and it declares nothing
	dead   bool         // the namespace is not mounted any more
}

// event is what the verdict means to the life.
func (v verdict) event() earlyEvent {
	switch {
	case v.owner != nil:
		return claims
	case v.dead:
		return dies
	}
	return declines
}

// earlyLife is the life of an early namespace. Any number of goroutines may tell it of events. The
// channels of milestones are for routing goroutines, which take no lock.
type earlyLife struct {
	decided  chan struct{} // closed when there is a verdict
	unhooked chan struct{} // closed when nothing is redirected any more, or only by another daemon; never if it was claimed in time
	done     chan struct{} // closed in a final state: runEarly does no more work

	mu      sync.Mutex
	state   earlyState
	verdict verdict       // valid once decided is closed
	changed chan struct{} // closed at the next change
}

func newEarlyLife() *earlyLife {
	return &earlyLife{
		decided: make(chan struct{}), unhooked: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
	}
}

// decide says what becomes of its connections. Only the first verdict counts.
func (l *earlyLife) decide(v verdict) { l.tell(v.event(), v) }

// on tells of an event that is no verdict, and reports whether it has changed the state. A failure
// is the verdict that no attachment has claimed the namespace.
func (l *earlyLife) on(e earlyEvent) (changes bool) { return l.tell(e, verdict{}) }

// tell is on and decide: v counts if the event decides.
func (l *earlyLife) tell(e earlyEvent, v verdict) (changes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.state
	next, changes := earlyTransitions[was][e]
	if !changes {
		return false
	}
	l.state = next
	if slices.Contains(undecidedStates, was) && !slices.Contains(undecidedStates, next) {
		l.verdict = v
		close(l.decided)
	}
	if slices.Contains(hookedStates, was) && !slices.Contains(hookedStates, next) {
		close(l.unhooked)
	}
	if !slices.Contains(finalStates, was) && slices.Contains(finalStates, next) {
		close(l.done)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

// now is the state, and what is closed when it is another.
func (l *earlyLife) now() (state earlyState, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.changed
}

// in reports whether the state is one of states.
func (l *earlyLife) in(states ...earlyState) bool {
	now, _ := l.now()
	return slices.Contains(states, now)
}
