package attach

import (
	"net/netip"
	"sync"
)

// inFlight are the connections in flight of an early namespace, by where they come from. It tells
// runEarly when the last has left. Several may come from one place: a container chooses it, and to different
// ports, or after a reset, the kernel lets it do so again.
type inFlight struct {
	mu     sync.Mutex
	in     map[netip.AddrPort]int
	closed bool
	none   chan struct{} // closed when closed and the last has left
}

func newInFlight() *inFlight {
	return &inFlight{in: map[netip.AddrPort]int{}, none: make(chan struct{})}
}

// enter reports whether it was let in; if so, leave has to follow.
func (g *inFlight) enter(source netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.in[source]++
	return true
}

// has reports whether the connection is in.
func (g *inFlight) has(source netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.in[source] > 0
}

func (g *inFlight) leave(source netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in[source]--; g.in[source] <= 0 {
		delete(g.in, source)
	}
	if g.closed && len(g.in) == 0 {
		close(g.none)
	}
}

// left lets no connection in any more and returns what is closed when all have left. It
// is called once.
func (g *inFlight) left() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if len(g.in) == 0 {
		close(g.none)
	}
	return g.none
}
