package selfdial

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Tracker knows the connections that we have dialled, so that those are recognised that come back
// to a listener of ours. The zero value knows none.
type Tracker struct {
	flows  flows        // of our own network namespace
	here   atomic.Int32 // listeners there that are served
	locals atomic.Pointer[locals]
}

// Listener is a listener of ours.
type Listener struct {
	Addr      *net.TCPAddr
	Local     netip.AddrPort // of each connection that it accepts; the zero value if it listens on all addresses
	Elsewhere bool           // it is in another network namespace than ours

	flows  atomic.Pointer[flows] // of that namespace; nil until something was dialled there
	itself atomic.Int32          // connections in a row that were dialled at local, at most surelyItself
}

// ListensAt says where it listens.
func (l *Listener) ListensAt(addr *net.TCPAddr) {
	l.Addr = addr
	if at := addr.AddrPort(); at.Addr().IsValid() && !at.Addr().IsUnspecified() {
		l.Local = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	}
}

// EnteredHere counts a listener of our own network namespace for as long as it is served.
func (t *Tracker) EnteredHere(l *Listener) (leave func()) {
	if l.Elsewhere {
		return func() {}
	}
	t.here.Add(1)
	return func() { t.here.Add(-1) }
}

// flowsOf are those of the namespace that l listens in; nil where nothing was dialled.
func (t *Tracker) flowsOf(l *Listener) *flows {
	if l.Elsewhere {
		return l.flows.Load()
	}
	return &t.flows
}

// dialsInside are those of the namespace that l listens in, where something is to be dialled.
func (l *Listener) dialsInside() *flows {
	if l.flows.Load() == nil {
		l.flows.CompareAndSwap(nil, new(flows))
	}
	return l.flows.Load()
}

// Arrived returns the hop of a connection from source that l has accepted; nil if we have
// not dialled it. Where it was dialled is asked only if it may be ours.
func (t *Tracker) Arrived(l *Listener, source netip.AddrPort, dialledAt func() (netip.AddrPort, error)) *Hop {
	f := t.flowsOf(l)
	if f == nil || !f.dialsFrom(source.Addr().Unmap()) || l.isDialledItself() && !f.dialled.has(keyOf(l.Local)) {
		return nil
	}
	at, err := dialledAt()
	if err != nil {
		return nil
	}
	l.wasDialled(at)
	key := keyOf(at)
	if !f.dialled.has(key) {
		return nil
	}
	if !l.Elsewhere { // where all is noted
		f.led.add(key)
	}
	return &Hop{by: l, source: keyOf(source), dialledAt: key}
}

const (
	// askAgain is of how many connections to a listener one is asked where it was dialled,
	// while surelyItself in a row have been dialled at the listener itself: the question takes
	// a hundredth of a short connection, and rules of somebody else's that lead connections of
	// ours to a listener are few. Where they make a loop it ends some askAgain turns later.
	askAgain     = 16
	surelyItself = 64
)

// isDialledItself guesses that a connection was dialled at l's own address, and that no rule
// led it there.
func (l *Listener) isDialledItself() bool {
	return l.Local.IsValid() && l.itself.Load() >= surelyItself && rand.Uint32N(askAgain) != 0
}

// wasDialled notes where a connection to l was dialled.
func (l *Listener) wasDialled(at netip.AddrPort) {
	switch {
	case at != l.Local:
		l.itself.Store(0)
	case l.itself.Load() < surelyItself:
		l.itself.Add(1)
	}
}

// LeadsBack says why addr is not to be dialled for a connection that came by a listener: it
// is that one's address, or that of another one by which a connection came of which it is a
// part.
func (t *Tracker) LeadsBack(by *Listener, h *Hop, w fmt.Stringer, addr netip.AddrPort) error {
	if t.here.Load() == 0 {
		return nil
	}
	if by.accepts(addr, t.isLocal) {
		return errLeadsBack(addr, by, w)
	}
	if h == nil {
		return nil
	}
	for b := h.parent(t); b != nil; b = b.parent(t) {
		if b.by.accepts(addr, t.isLocal) {
			return errLeadsBack(addr, b.by, b.Way)
		}
	}
	return h.CameBack(t) // the goroutine that dialled it may have noted that by now
}

func errLeadsBack(addr netip.AddrPort, by *Listener, w fmt.Stringer) error {
	return hint.Errorf(loopFix, "%s is our own socket at %s, by which the connection came (%s)", addr, by.Addr, step(by, w))
}

// accepts reports whether a dial of addr from our own network namespace reaches l;
// isLocal says whether an address is one of that.
func (l *Listener) accepts(addr netip.AddrPort, isLocal func(netip.Addr) bool) bool {
	if l.Elsewhere || l.Addr.Port != int(addr.Port()) {
		return false
	}
	ip := addr.Addr().Unmap().WithZone("")
	if l.Local.IsValid() {
		return l.Local.Addr() == ip
	}
	return ip.IsLoopback() || ip.IsUnspecified() || isLocal(ip)
}

// locals are the addresses of our network namespace, as they were at a time.
type locals struct {
	addrs []netip.Addr
	at    time.Time
}

// localsFor is how long it is believed which addresses these are: to list them takes the
// time of a connection, and most wildcard listeners lead to the same port elsewhere.
const localsFor = time.Second

// isLocal reports whether ip is an address of our network namespace.
func (t *Tracker) isLocal(ip netip.Addr) bool {
	known := t.locals.Load()
	if known == nil || time.Since(known.at) > localsFor {
		known = &locals{at: time.Now()}
		all, _ := net.InterfaceAddrs() // without them, loops are seen when they come back
		for _, a := range all {
			if prefix, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(prefix.IP); ok {
					known.addrs = append(known.addrs, addr.Unmap())
				}
			}
		}
		t.locals.Store(known)
	}
	return slices.Contains(known.addrs, ip)
}

// Outgoing is an endpoint that is about to be dialled. The zero value is of one that cannot
// lead back to us.
type Outgoing struct {
	flows  *flows
	remote uint64 // key
	hidden bool   // it is dialled from its client's address
	note   bool   // it has led back, so the connection is to be found when it comes back
	learn  bool   // the address that it is dialled from may be news
	done   func() // nil, or to be called when that is noted or has failed
}

// lookAgain is of how many connections to an endpoint one is looked at again: it is nearly
// always dialled from one address.
const lookAgain = 64

// Departs says what is to be noted of addr, which is about to be dialled for a connection
// that came by a listener: inside, where that listens, or from here; hidden if that is done from
// the address of the client.
func (t *Tracker) Departs(by *Listener, h *Hop, addr netip.AddrPort, inside, hidden bool) Outgoing {
	d := Outgoing{remote: keyOf(addr), hidden: hidden}
	switch {
	case inside: // where it was accepted, and processes in there may lead it anywhere
		d.flows, d.note = by.dialsInside(), true
		d.flows.dialled.add(d.remote)
	case t.here.Load() > 0:
		d.flows = &t.flows
		d.flows.dialled.add(d.remote)
		d.learn = !hidden && (!d.flows.sourced.has(d.remote) || rand.Uint32N(lookAgain) == 0) // or it is the client's
		d.note = h != nil || d.flows.led.has(d.remote)
	}
	return d
}

// Departed notes that the connection has been dialled from local, and returns its hop.
func (t *Tracker) Departed(d *Outgoing, by *Listener, h *Hop, w fmt.Stringer, local netip.AddrPort) *Hop {
	if d.learn || d.note && !d.hidden {
		d.flows.noteSource(local.Addr().Unmap())
	}
	if d.learn {
		d.flows.sourced.add(d.remote)
	}
	if !d.note {
		return h
	}
	if h == nil {
		h = &Hop{by: by, Way: w}
	}
	h.looped.Store(nil) // by another endpoint
	h.flows, h.local, h.remote = d.flows, keyOf(local), d.remote
	h.flows.put(h)
	if err := h.flows.wasReset(h.local, h.remote); err != nil {
		h.looped.CompareAndSwap(nil, &cause{err})
		h.Tell(t, err)
	}
	return h
}

// NeedsSource reports whether Departed wants to know from where it was dialled.
func (d *Outgoing) NeedsSource() bool { return d.note || d.learn }

// Begin says that what is dialled is about to be noted, which Over ends.
func (d *Outgoing) Begin() {
	if d.note {
		d.done = d.flows.begin(d.remote)
	}
}

// Over says that the dial has ended, one way or the other.
func (d *Outgoing) Over() {
	if d.done != nil {
		d.done()
	}
}

// WhyLooped is why a connection was reset, if that is because it came back; nil if not. addrs are
// its two addresses, which are asked for only if it is not noted.
func (t *Tracker) WhyLooped(h *Hop, addrs func() (local, remote netip.AddrPort)) error {
	if h != nil {
		if looped := h.looped.Load(); looped != nil {
			return looped.err
		}
	}
	if t.flows.waiting.Load() == 0 || h != nil && h.flows != nil {
		return nil
	}
	local, remote := addrs()
	looped := t.flows.wasReset(keyOf(local), keyOf(remote))
	if looped != nil && h != nil {
		h.Tell(t, looped)
	}
	return looped
}

// Noted is how many connections of our own namespace are noted.
func (t *Tracker) Noted() (n int) {
	for i := range t.flows.shards {
		shard := &t.flows.shards[i]
		shard.Lock()
		n += len(shard.hops)
		shard.Unlock()
	}
	return n
}
