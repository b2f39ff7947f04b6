package proxy

import (
	"net/netip"
	"sync"
)

// strangers are connections whose client is not known yet: one that waits for its
// container to be known, or has yet to send its PROXY header. They count by where they
// come from, so that those of one client do not stand in the way of the others'.
type strangers struct {
	mu  sync.Mutex
	all map[origin]*stranger
}

// origin is from where strangers come: in a container's namespace, and on a loopback
// address of the host, all that come to a listener are one; elsewhere those of an address.
type origin struct {
	listener *Listener // nil where source says it
	source   netip.Addr
}

// stranger is what those of one origin have.
type stranger struct {
	known, unknown *Share // of Server.Limit and Server.Unknown; nil without
	n              int
}

// ClientAddr is the address by which clients that are no containers are told apart: of
// IPv6 a network of 64 bits, since each host may have as many addresses as that has, and
// of the loopback networks one address.
func ClientAddr(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.IsLoopback():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case addr.Is6():
		const network = 64
		prefix, err := addr.Prefix(network)
		if err != nil {
			return addr // which 64 bits of an IPv6 address cannot do
		}
		return prefix.Addr()
	}
	return addr
}

// enter takes a place for a connection, which leave gives back.
func (t *strangers) enter(s *Server, listener *Listener, source netip.AddrPort) (leave func(), err error) {
	if s.Limit == nil || s.Unknown == nil {
		return func() {}, nil
	}
	from := origin{source: ClientAddr(source.Addr())}
	if listener.addr.IP.IsLoopback() || from.source.IsLoopback() {
		from = origin{listener: listener}
	}
	t.mu.Lock()
	one := t.all[from]
	if one == nil {
		if t.all == nil {
			t.all = map[origin]*stranger{}
		}
		one = &stranger{known: s.Limit.Share(""), unknown: s.Unknown.Share("")}
		one.known.stranger = true
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
		if share.tryMore() {
			return func() { share.leave(); gone() }, nil
		}
	}
	gone()
	return nil, errManyUnknown
}
