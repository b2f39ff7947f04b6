package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// hop is a connection that we carry and that may be part of a loop: what we dial for it has
// come back to a listener of ours, or it is itself a connection that we have dialled. Such a
// one has both addresses of what was dialled, and there is but one such connection in a
// network namespace. What comes by one listener for the second time would go on for ever.
// Most connections have no hop.
type hop struct {
	by        *Listener             // that accepted it
	route     *Route                // nil until it is known
	source    uint64                // keys of its addresses; 0 where it cannot be ours
	dialledAt uint64                // before any rule led it elsewhere
	before    atomic.Pointer[hop]   // the connection of ours that it is, once that is known
	looped    atomic.Pointer[cause] // why what came back was reset

	// What follows is of the connection to an endpoint.
	flows         *flows // where it is found; nil while it is not noted
	local, remote uint64 // keys
	next          *hop   // another one from the same address
}

// enteredHere counts a listener of our own network namespace for as long as it is served.
func (s *Server) enteredHere(l *Listener) (leave func()) {
	if l.elsewhere {
		return func() {}
	}
	s.here.Add(1)
	return func() { s.here.Add(-1) }
}

// flowsOf are those of the namespace that l listens in; nil where nothing was dialled.
func (s *Server) flowsOf(l *Listener) *flows {
	if l.elsewhere {
		return l.flows.Load()
	}
	return &s.flows
}

// dialsInside are those of the namespace that l listens in, where something is to be dialled.
func (l *Listener) dialsInside() *flows {
	if l.flows.Load() == nil {
		l.flows.CompareAndSwap(nil, new(flows))
	}
	return l.flows.Load()
}

// arrived returns the hop of a connection from source that l has accepted; nil if we have
// not dialled it. Where it was dialled is asked only if it may be ours.
func (s *Server) arrived(l *Listener, source netip.AddrPort, dialledAt func() (netip.AddrPort, error)) *hop {
	f := s.flowsOf(l)
	if f == nil || !f.dialsFrom(source.Addr().Unmap()) || l.isDialledItself() && !f.dialled.has(keyOf(l.local)) {
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
	if !l.elsewhere { // where all is noted
		f.led.add(key)
	}
	return &hop{by: l, source: keyOf(source), dialledAt: key}
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
	return l.local.IsValid() && l.itself.Load() >= surelyItself && rand.Uint32N(askAgain) != 0
}

// wasDialled notes where a connection to l was dialled.
func (l *Listener) wasDialled(at netip.AddrPort) {
	switch {
	case at != l.local:
		l.itself.Store(0)
	case l.itself.Load() < surelyItself:
		l.itself.Add(1)
	}
}

// awaitParent gives whoever has dialled it the time to note that.
func (h *hop) awaitParent(ctx context.Context, s *Server) {
	if h != nil && h.parent(s) == nil {
		s.flowsOf(h.by).await(ctx, h.dialledAt)
	}
}

// parent is the connection of ours that h is; nil if it is somebody else's. Whoever has
// dialled it may not have noted that yet when it is accepted, so it is asked again.
func (h *hop) parent(s *Server) *hop {
	if b := h.before.Load(); b != nil || h.source == 0 {
		return b
	}
	b := s.flowsOf(h.by).find(h.source, h.dialledAt)
	if b != nil {
		h.before.Store(b)
	}
	return b
}

// cameBack says why a connection is to be reset: it came by its listener before, and which
// way it took since.
func (h *hop) cameBack(s *Server) error {
	if h == nil {
		return nil
	}
	for b := h.parent(s); b != nil; b = b.parent(s) {
		if b.by == h.by {
			return h.loop(s)
		}
	}
	return nil
}

// unserved tells those of which the connection is a part why it gets no endpoint.
func (h *hop) unserved(s *Server, err error) {
	if h == nil || ReasonOf(err) != Loop {
		return
	}
	h.tell(s, err)
}

// tell tells those of which the connection is a part that it was a loop.
func (h *hop) tell(s *Server, err error) {
	for first := h; ; {
		for b := first.parent(s); b != nil; b = b.parent(s) {
			b.looped.CompareAndSwap(nil, &cause{err})
			first = b
		}
		if first.source == 0 {
			return
		}
		s.flowsOf(first.by).resetEarly(first.source, first.dialledAt, err)
		if first.parent(s) == nil { // or it was noted in between
			return
		}
	}
}

// loop says which way the connection took until it came back.
func (h *hop) loop(s *Server) error {
	var steps []string
	for b := h.parent(s); b != nil; b = b.parent(s) {
		steps = append(steps, b.step())
		if b.by == h.by {
			break
		}
	}
	slices.Reverse(steps)
	return Fail(Loop, hint.Errorf(loopFix, "what was dialled for a connection came back: %s → our own socket at %s",
		strings.Join(steps, " → "), h.by.addr))
}

func (h *hop) step() string { return step(h.by, h.route) }

// step says what came by a listener, and where to.
func step(by *Listener, r *Route) string {
	if r == nil {
		return by.addr.String()
	}
	if r.Target == "" { // nobody declares the port: it was dialled where it was meant for
		return fmt.Sprintf("%s, port %d, which is not declared", shortened(r.Client.Name), r.Port)
	}
	return fmt.Sprintf("%s, port %d → target %s", shortened(r.Client.Name), r.Port, shortened(r.Target))
}

const loopFix = "name another target: this one leads back to ourselves"

// shortened keeps what a container may choose from filling the log.
func shortened(text string) string { return shorten.Text(text, 128) }

// leadsBack says why addr is not to be dialled for a connection that came by a listener: it
// is that one's address, or that of another one by which a connection came of which it is a
// part.
func (s *Server) leadsBack(by *Listener, h *hop, route *Route, addr netip.AddrPort) error {
	if s.here.Load() == 0 {
		return nil
	}
	if by.accepts(addr, s.isLocal) {
		return errLeadsBack(addr, by, route)
	}
	if h == nil {
		return nil
	}
	for b := h.parent(s); b != nil; b = b.parent(s) {
		if b.by.accepts(addr, s.isLocal) {
			return errLeadsBack(addr, b.by, b.route)
		}
	}
	return h.cameBack(s) // whoever dialled it may have noted that by now
}

func errLeadsBack(addr netip.AddrPort, by *Listener, route *Route) error {
	return Fail(Loop, hint.Errorf(loopFix, "%s is our own socket at %s, by which the connection came (%s)", addr, by.addr, step(by, route)))
}

// accepts reports whether whoever dials addr from our own network namespace reaches l;
// isLocal says whether an address is one of that.
func (l *Listener) accepts(addr netip.AddrPort, isLocal func(netip.Addr) bool) bool {
	if l.elsewhere || l.addr.Port != int(addr.Port()) {
		return false
	}
	ip := addr.Addr().Unmap().WithZone("")
	if l.local.IsValid() {
		return l.local.Addr() == ip
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
func (s *Server) isLocal(ip netip.Addr) bool {
	known := s.locals.Load()
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
		s.locals.Store(known)
	}
	return slices.Contains(known.addrs, ip)
}

// outgoingDial is an endpoint that is about to be dialled. The zero value is of one that cannot
// lead back to us.
type outgoingDial struct {
	flows  *flows
	remote uint64 // key
	note   bool   // it has led back, so the connection is to be found when it comes back
	learn  bool   // the address that it is dialled from may be news
	done   func() // nil, or to be called when that is noted or has failed
}

// lookAgain is of how many connections to an endpoint one is looked at again: it is nearly
// always dialled from one address.
const lookAgain = 64

// departs says what is to be noted of addr, which is about to be dialled for a connection
// that came by a listener.
func (s *Server) departs(by *Listener, h *hop, route *Route, addr netip.AddrPort) outgoingDial {
	d := outgoingDial{remote: keyOf(addr)}
	switch {
	case route.Dial != nil: // where it was accepted, and whoever is in there may lead it anywhere
		d.flows, d.note = by.dialsInside(), true
		d.flows.dialled.add(d.remote)
	case s.here.Load() > 0:
		d.flows = &s.flows
		d.flows.dialled.add(d.remote)
		d.learn = !route.Options.Transparent && (!d.flows.sourced.has(d.remote) || rand.Uint32N(lookAgain) == 0) // or it is the client's
		d.note = h != nil || d.flows.led.has(d.remote)
	}
	return d
}

// departed notes that the connection has been dialled from local, and returns its hop.
func (s *Server) departed(d *outgoingDial, by *Listener, h *hop, route *Route, local netip.AddrPort) *hop {
	if d.learn || d.note && !route.Options.Transparent {
		d.flows.noteSource(local.Addr().Unmap())
	}
	if d.learn {
		d.flows.sourced.add(d.remote)
	}
	if !d.note {
		return h
	}
	if h == nil {
		h = &hop{by: by, route: route}
	}
	h.looped.Store(nil) // by another endpoint
	h.flows, h.local, h.remote = d.flows, keyOf(local), d.remote
	h.flows.put(h)
	if err := h.flows.wasReset(h.local, h.remote); err != nil {
		h.looped.CompareAndSwap(nil, &cause{err})
		h.tell(s, err)
	}
	return h
}

// over says that the dial has ended, one way or the other.
func (d *outgoingDial) over() {
	if d.done != nil {
		d.done()
	}
}

// left notes that the connection to the endpoint is about to be closed.
func (h *hop) left() {
	if h != nil && h.flows != nil {
		h.flows.remove(h)
		h.flows = nil
	}
}

// cause is why a connection has ended.
type cause struct{ err error }

// reason is why a connection to an endpoint has ended by err: that it came back, if that is
// why its endpoint has reset it. addrs are its two addresses, which are asked for only if a
// connection was reset that is not noted.
func (s *Server) reason(h *hop, err error, addrs func() (local, remote netip.AddrPort)) error {
	if ReasonOf(err) != EndpointGone {
		return err
	}
	if h != nil {
		if looped := h.looped.Load(); looped != nil {
			return looped.err
		}
	}
	if s.flows.waiting.Load() == 0 || h != nil && h.flows != nil {
		return err
	}
	local, remote := addrs()
	looped := s.flows.wasReset(keyOf(local), keyOf(remote))
	if looped == nil {
		return err
	}
	if h != nil {
		h.tell(s, looped)
	}
	return looped
}

// isLoop reports whether err says that an endpoint leads back to us.
func isLoop(err error) bool { return ReasonOf(err) == Loop }
