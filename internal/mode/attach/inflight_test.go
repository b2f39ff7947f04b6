package attach

import (
	"net/netip"
	"testing"
)

// TestConnectionsFromOnePlace: a container binds its sockets to one port, and dials two.
func TestConnectionsFromOnePlace(t *testing.T) {
	g, source := newInFlight(), netip.MustParseAddrPort("127.0.0.1:5000")
	for range 2 {
		if !g.enter(source) {
			t.Fatal("it was not let in")
		}
	}
	gone := g.left()
	if g.enter(source) {
		t.Error("one was let in after the last")
	}
	open := func() bool {
		select {
		case <-gone:
			return false
		default:
			return true
		}
	}
	g.leave(source)
	if !open() || !g.has(source) {
		t.Error("one is still in, and nobody knows it")
	}
	g.leave(source)
	if open() || g.has(source) {
		t.Error("both have left, and nobody knows it")
	}
}
