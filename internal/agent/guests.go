package agent

import "sync"

// guests counts connections, for one who waits until they have left.
type guests struct {
	mu     sync.Mutex
	count  int
	closed bool
	none   chan struct{} // closed when closed and the last has left
}

func newGuests() *guests { return &guests{none: make(chan struct{})} }

// enter reports whether it was let in; if so, leave has to follow.
func (g *guests) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.count++
	return true
}

func (g *guests) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count--
	if g.closed && g.count == 0 {
		close(g.none)
	}
}

// left lets nobody in any more and returns what is closed when all have left. It
// is called once.
func (g *guests) left() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.count == 0 {
		close(g.none)
	}
	return g.none
}
