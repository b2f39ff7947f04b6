package daemon

import (
	"slices"
	"sync"
)

// giverState is how far the handover to another daemon is.
type giverState int

const (
	serving    giverState = iota // no daemon is taking over
	giving                       // one is, and may yet break that off
	givingLast                   // likewise, and we have been told to end: no other may after it
	given                        // it accepts, and has our locks
	departed                     // we have left the work on sockets and rules to it
	handedOver                   // it knows of all that we had opened
	closed                       // we end, and no daemon takes over any more
)

// String is the state in a word or two, for people.
func (s giverState) String() string {
	return map[giverState]string{
		serving: "none", giving: "under way", givingLast: "under way, the last", given: "accepted", departed: "left", handedOver: "done", closed: "none any more",
	}[s]
}

// giverEvent changes the state.
type giverEvent int

const (
	asked     giverEvent = iota // another daemon asks to take over
	accepts                     // it serves on every socket
	breaksOff                   // it is gone, or has failed
	leaves                      // we do no more work on sockets and rules
	hasAll                      // all sockets that we had opened until then have been sent to it
	ends                        // we have been told to end
)

// giverTransitions says what follows on what. An event that is not in a state's row changes nothing.
var giverTransitions = map[giverState]map[giverEvent]giverState{
	serving:    {asked: giving, ends: closed},
	giving:     {accepts: given, breaksOff: serving, ends: givingLast},
	givingLast: {accepts: given, breaksOff: closed},
	given:      {leaves: departed},
	departed:   {hasAll: handedOver},
	handedOver: {},
	closed:     {},
}

// giver is the handover to another daemon, of which there is one at a time.
type giver struct {
	handing chan *successor // a new daemon accepts

	mu      sync.Mutex
	state   giverState
	ending  bool          // we have been told to end
	changed chan struct{} // closed at the next change
}

func newGiver() giver { return giver{handing: make(chan *successor), changed: make(chan struct{})} }

// on tells of an event, and returns the state in which it came, and whether it changed that.
func (g *giver) on(e giverEvent) (was giverState, changes bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was, g.ending = g.state, g.ending || e == ends
	next, ok := giverTransitions[was][e]
	if ok {
		g.state = next
		close(g.changed)
		g.changed = make(chan struct{})
	}
	return was, ok
}

// isEnding reports whether we have been told to end.
func (g *giver) isEnding() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ending
}

// hasDeparted reports whether the work on sockets and rules is another daemon's.
func (g *giver) hasDeparted() bool { return g.has(departed, handedOver) }

// hasGiven reports whether another daemon has our locks.
func (g *giver) hasGiven() bool { return g.has(given, departed, handedOver) }

// now is the state.
func (g *giver) now() giverState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// has reports whether the state is one of states.
func (g *giver) has(states ...giverState) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(states, g.state)
}

// await waits until the state is one of states, or over is closed or hurry is.
func (g *giver) await(over <-chan struct{}, hurry <-chan struct{}, states ...giverState) {
	for {
		g.mu.Lock()
		there, changed := slices.Contains(states, g.state), g.changed
		g.mu.Unlock()
		if there {
			return
		}
		select {
		case <-changed:
		case <-over:
			return
		case <-hurry:
			return
		}
	}
}
