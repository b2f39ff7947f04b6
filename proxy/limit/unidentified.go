package limit

import (
	"net/netip"
	"sync"
)

// Unidentified are connections whose client is not known yet: one that waits for its
// container to be known, or has yet to send its PROXY header. They count by where they
// come from, so that those of one client do not stand in the way of the others'.
type Unidentified struct {
	mu  sync.Mutex
	all map[Origin]*originShares
}

// Origin is from where they come: in a container's namespace, and on a loopback
// address of the host, all that come to a listener are one; elsewhere those of an address.
type Origin struct {
	Listener any // nil where source says it
	Source   netip.Addr
}

// originShares are what those of one origin have.
type originShares struct {
	known, unknown *Share // of the limits for those that are known and for those that are not
	n              int
}

// Enter takes a place for a connection, in known or, where that has none at once, in unknown; leave
// gives it back. ok is false where neither has one.
func (t *Unidentified) Enter(known, unknown *Limit, from Origin) (leave func(), ok bool) {
	t.mu.Lock()
	one := t.all[from]
	if one == nil {
		if t.all == nil {
			t.all = map[Origin]*originShares{}
		}
		one = &originShares{known: known.Share(""), unknown: unknown.Share("")}
		one.known.anonymous = true
		t.all[from] = one
	}
	one.n++
	t.mu.Unlock()
	gone := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.n--; one.n == 0 {
			delete(t.all, from)
		}
	}
	for _, share := range []*Share{one.known, one.unknown} {
		if share.TryMore() {
			return func() { share.Leave(); gone() }, true
		}
	}
	gone()
	return nil, false
}
