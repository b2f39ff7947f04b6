package proxy

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// hop is a connection that we carry, as it is recognised when what we have dialled for it
// comes back to one of our own listeners: then the connection that is accepted there has
// both addresses of the one that we have dialled, and there is but one such connection in
// a network namespace. What comes by one listener for the second time would go on for
// ever. A nil hop is of a connection that cannot come back.
type hop struct {
	by        *Listener             // that accepted it
	source    uint64                // keys of its addresses; 0 where it cannot be ours
	dialledAt uint64                // before any rule led it elsewhere
	before    atomic.Pointer[hop]   // the connection of ours that it is, once that is known
	route     *Route                // nil until it is known
	looped    atomic.Pointer[cause] // why what came back was reset

	// What follows is of the connection to an endpoint.
	flows         *flows // where it is found; nil while there is none
	local, remote uint64 // keys
	next          *hop   // another one from the same address
}

// flows are the connections to endpoints that are open in one network namespace, by their
// local addresses. The zero value has none.
type flows struct {
	shards [16]struct {
		sync.Mutex

		hops map[uint64]*hop
		_    [48]byte // shards do not share a cache line
	}

	// early are connections that were reset as loops before whoever had dialled them, if
	// that was us, had noted that.
	waiting atomic.Int32
	mu      sync.Mutex
	early   map[[2]uint64]error // by both addresses
}

// mostEarly bounds early: most were dialled by somebody else.
const mostEarly = 64

// resetEarly keeps why what came from source was reset.
func (f *flows) resetEarly(source, dialledAt uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.early == nil || len(f.early) >= mostEarly {
		f.early = map[[2]uint64]error{}
	}
	f.early[[2]uint64{source, dialledAt}] = err
	f.waiting.Store(int32(len(f.early)))
}

// wasReset takes why what was dialled from local to remote was reset; nil if it was not.
func (f *flows) wasReset(local, remote uint64) error {
	if f.waiting.Load() == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := [2]uint64{local, remote}
	err := f.early[key]
	delete(f.early, key)
	f.waiting.Store(int32(len(f.early)))
	return err
}

// keySeed makes it impossible to choose addresses that have one key.
var keySeed = maphash.MakeSeed()

// keyOf is a number for an address, and never 0: of IPv4 the very address, of IPv6 a hash
// that nobody can choose a second address for.
func keyOf(a netip.AddrPort) uint64 {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		four := ip.As4()
		return 1<<62 | uint64(binary.BigEndian.Uint32(four[:]))<<16 | uint64(a.Port())
	}
	var b [18]byte
	six := ip.As16()
	copy(b[:], six[:])
	binary.BigEndian.PutUint16(b[16:], a.Port())
	return 1<<63 | maphash.Bytes(keySeed, b[:])
}

func (f *flows) put(h *hop) {
	shard := &f.shards[h.local%uint64(len(f.shards))]
	shard.Lock()
	defer shard.Unlock()
	if shard.hops == nil {
		shard.hops = map[uint64]*hop{}
	}
	h.next = shard.hops[h.local]
	shard.hops[h.local] = h
}

func (f *flows) remove(h *hop) {
	shard := &f.shards[h.local%uint64(len(f.shards))]
	shard.Lock()
	defer shard.Unlock()
	first := shard.hops[h.local]
	switch {
	case first != h:
		for ; first.next != h; first = first.next {
		}
		first.next = h.next
	case h.next != nil:
		shard.hops[h.local] = h.next
	default:
		delete(shard.hops, h.local)
	}
	h.next = nil
}

func (f *flows) find(local, remote uint64) *hop {
	shard := &f.shards[local%uint64(len(f.shards))]
	shard.Lock()
	defer shard.Unlock()
	h := shard.hops[local]
	for h != nil && h.remote != remote {
		h = h.next
	}
	return h
}

// watchesLoops reports whether what we dial may come back to one of our listeners: while
// all of them are in other network namespaces, only what is dialled in there may.
func (s *Server) watchesLoops() bool { return s.here.Load() > 0 }

// enteredHere counts a listener of our own network namespace for as long as it is served.
func (s *Server) enteredHere(l *Listener) (leave func()) {
	if l.elsewhere {
		return func() {}
	}
	s.here.Add(1)
	return func() { s.here.Add(-1) }
}

// flowsOf are those of the namespace that l listens in.
func (s *Server) flowsOf(l *Listener) *flows {
	if l.elsewhere {
		return &l.flows
	}
	return &s.flows
}

// dialsFrom reports whether a connection from source may be one that we have dialled.
func (s *Server) dialsFrom(source netip.Addr) bool {
	if source.IsLoopback() {
		return true
	}
	known := s.dialledFrom.Load()
	return known != nil && slices.Contains(*known, source)
}

// mostSources is how many addresses of our own are remembered; beyond that, loops by way
// of others end by the limits of connections alone.
const mostSources = 64

// noteSource remembers that we dial from addr.
func (s *Server) noteSource(addr netip.Addr) {
	for !s.dialsFrom(addr) {
		known := s.dialledFrom.Load()
		var all []netip.Addr
		if known != nil {
			all = *known
		}
		if len(all) >= mostSources {
			return
		}
		all = append(slices.Clone(all), addr)
		if s.dialledFrom.CompareAndSwap(known, &all) {
			return
		}
	}
}

// arrived notes that l has accepted the connection, from source; where it was dialled is
// asked only if it may be ours.
func (s *Server) arrived(h *hop, l *Listener, source netip.AddrPort, dialledAt func() (netip.AddrPort, error)) {
	h.by = l
	if !s.dialsFrom(source.Addr().Unmap()) {
		return
	}
	if at, err := dialledAt(); err == nil {
		h.source, h.dialledAt = keyOf(source), keyOf(at)
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

// step says what came by a listener, and where to.
func (h *hop) step() string {
	r := h.route
	if r == nil {
		return h.by.addr.String()
	}
	if r.Target == "" { // nobody declares the port: it was dialled where it was meant for
		return fmt.Sprintf("%s, port %d, which is not declared", shortened(r.Client.Name), r.Port)
	}
	return fmt.Sprintf("%s, port %d → target %s", shortened(r.Client.Name), r.Port, shortened(r.Target))
}

const loopFix = "name another target: this one leads back to ourselves"

// shortened keeps what a container may choose from filling the log.
func shortened(text string) string {
	const most = 128
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(text[:most], ""), len(text))
}

// leadsBack says why addr is not to be dialled: it is that of the listener that the
// connection came by, or that another one came by of which it is a part. Nothing leads
// back to a nil hop.
func (h *hop) leadsBack(s *Server, addr netip.AddrPort) error {
	if h == nil {
		return nil
	}
	for b := h; b != nil; b = b.parent(s) {
		if b.by.accepts(addr, s.isLocal) {
			return Fail(Loop, hint.Errorf(loopFix, "%s is our own socket at %s, by which the connection came (%s)", addr, b.by.addr, b.step()))
		}
	}
	return h.cameBack(s) // whoever dialled it may have noted that by now
}

// accepts reports whether whoever dials addr from our own network namespace reaches l;
// isLocal says whether an address is one of that.
func (l *Listener) accepts(addr netip.AddrPort, isLocal func(netip.Addr) bool) bool {
	if l.elsewhere || l.addr.Port != int(addr.Port()) {
		return false
	}
	at, ip := l.addr.AddrPort().Addr().Unmap(), addr.Addr().Unmap().WithZone("")
	if at.IsValid() && !at.IsUnspecified() {
		return at.WithZone("") == ip
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

// dialled notes that the connection has one to its endpoint, of these addresses.
func (h *hop) dialled(s *Server, local, remote netip.AddrPort) {
	s.noteSource(local.Addr().Unmap())
	h.flows = &s.flows
	if h.route.Dial != nil { // where it was accepted
		h.flows = s.flowsOf(h.by)
	}
	h.local, h.remote = keyOf(local), keyOf(remote)
	h.flows.put(h)
	if err := h.flows.wasReset(h.local, h.remote); err != nil {
		h.looped.CompareAndSwap(nil, &cause{err})
		h.tell(s, err)
	}
}

// dialledBy is dialled of a connection of package net; nothing of a nil hop.
func (h *hop) dialledBy(s *Server, conn *net.TCPConn) {
	if h != nil && h.flows == nil {
		h.dialled(s, addrOf(conn.LocalAddr()), addrOf(conn.RemoteAddr()))
	}
}

// dialledFD is dialled of a socket; nothing of a nil hop.
func (h *hop) dialledFD(s *Server, fd int, remote netip.AddrPort) {
	if h == nil {
		return
	}
	if local, err := localAddr(fd); err == nil {
		h.dialled(s, local, remote)
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

// reason is why a connection has ended by err: that it came back, if that is why its
// endpoint has reset it.
func (h *hop) reason(err error) error {
	if h == nil || ReasonOf(err) != EndpointGone {
		return err
	}
	if looped := h.looped.Load(); looped != nil {
		return looped.err
	}
	return err
}

// isLoop reports whether err says that an endpoint leads back to us.
func isLoop(err error) bool { return ReasonOf(err) == Loop }
