package policy

import (
	"net/netip"
	"slices"
)

// class is what is special about an address, as bits.
type class uint8

const (
	loopback    class = 1 << iota // this host's own: 127.0.0.0/8, ::1
	linkLocal                     // 169.254.0.0/16, fe80::/10
	metadata                      // where clouds tell a machine about itself
	host                          // an address of this host that is no loopback
	own                           // a socket of the engine's or the daemon's
	multicast                     // or broadcast
	unspecified                   // 0.0.0.0/8, ::, which connect(2) takes for loopback
)

// metadataAddrs are where clouds tell a machine about itself, credentials included.
var metadataAddrs = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, Azure, GCP, OpenStack and most others
	netip.MustParseAddr("169.254.170.2"),   // AWS ECS: credentials of a task
	netip.MustParseAddr("169.254.170.23"),  // AWS EKS: Pod Identity
	netip.MustParseAddr("fd00:ec2::254"),   // AWS by IPv6
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS by IPv6
	netip.MustParseAddr("fd20:ce::254"),    // GCP by IPv6
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure's WireServer
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud, classic
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8") // RFC 1122, section 3.2.1.3
	broadcast   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	nat64       = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	nat64Local  = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour   = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo      = netip.MustParsePrefix("2001::/32")       // RFC 4380
	translated  = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	compatible  = netip.MustParsePrefix("::/96")           // RFC 4291, section 2.5.5.1
)

// classify is what is special about addr, without knowing the host.
func classify(addr netip.Addr) class {
	var c class
	switch {
	case addr.IsLoopback():
		c = loopback
	case addr.IsLinkLocalUnicast():
		c = linkLocal
	case addr.IsMulticast(), addr == broadcast:
		c = multicast
	case addr.IsUnspecified(), addr.Is4() && thisNetwork.Contains(addr):
		c = unspecified
	}
	if isMetadata(addr) {
		c |= metadata
	}
	return c
}

// isMetadata is asked about every endpoint, of which next to none begins like one of these.
func isMetadata(addr netip.Addr) bool {
	if addr.Is4() {
		switch addr.As4()[0] {
		case 100, 168, 169, 192:
		default:
			return false
		}
	} else if addr.As16()[0] != 0xfd {
		return false
	}
	return slices.Contains(metadataAddrs, addr)
}

// embedded are the IPv4 addresses that an IPv6 one may stand for, beyond the mapped ones,
// which are IPv4 (RFC 4291, section 2.5.5.2): a translator or tunnel would go there. The
// zero value has none.
type embedded struct {
	addrs [5]netip.Addr
	count int
	// ambiguous says that the address has several layouts, of which one is the host's.
	ambiguous bool
}

func (e *embedded) all() []netip.Addr { return e.addrs[:e.count] }

func (e *embedded) add(a, b, c, d byte) {
	e.addrs[e.count] = netip.AddrFrom4([4]byte{a, b, c, d})
	e.count++
}

// embeddedIn reads what addr stands for.
func embeddedIn(addr netip.Addr) (e embedded) {
	if !addr.Is6() {
		return e
	}
	b := addr.As16()
	switch {
	case nat64Local.Contains(addr):
		// Within this prefix an operator has one of his own, of a length that nobody else
		// knows: all layouts of RFC 6052, section 2.2, that fit. Byte 8 is none of the
		// address, and translators pass over what follows it.
		e.ambiguous = true
		e.add(b[6], b[7], b[9], b[10])
		e.add(b[7], b[9], b[10], b[11])
		e.add(b[9], b[10], b[11], b[12])
		e.add(b[12], b[13], b[14], b[15])
	case sixToFour.Contains(addr):
		e.add(b[2], b[3], b[4], b[5])
	case teredo.Contains(addr):
		e.add(^b[12], ^b[13], ^b[14], ^b[15])
	case nat64.Contains(addr), translated.Contains(addr),
		compatible.Contains(addr) && !addr.IsUnspecified() && !addr.IsLoopback():
		e.add(b[12], b[13], b[14], b[15])
	}
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe { // ISATAP, RFC 5214
		e.add(b[12], b[13], b[14], b[15])
	}
	return e
}

// classes is what is special about them.
func (e *embedded) classes() class {
	var c class
	for _, addr := range e.all() {
		c |= classify(addr)
	}
	if e.ambiguous { // a layout that is not the host's reads zeros and anything
		c &^= unspecified | multicast
	}
	return c
}

// layouts are those that an ambiguous address is read in, in their order there: the length
// of the prefix, and the byte at which the suffix begins, which RFC 6052 has DNS64 fill
// with zeros.
var layouts = [...]struct{ bits, suffix int }{{48, 11}, {56, 12}, {64, 13}, {96, 16}}

// layoutOf is which layout addr has if prefix, which contains it, is a translator's; -1 is
// unknown. The length of prefix alone proves nothing: an operator may have a translator of a
// longer prefix within it, whose addresses have no zeros where the suffix would be.
func layoutOf(prefix netip.Prefix, addr netip.Addr) int {
	b := addr.As16()
	for i, l := range layouts {
		if prefix.Bits() == l.bits && b[8] == 0 && !slices.ContainsFunc(b[l.suffix:], func(b byte) bool { return b != 0 }) {
			return i
		}
	}
	return -1
}

// named is what is special about addr, which e was read from, and which the author of
// prefix, which contains addr, means: each reading of addr that is special has to be so for
// the first address of prefix, too, in the same layout. If prefix is a translator's and says
// which layout is its own, what the other layouts read is not there.
func (e *embedded) named(prefix netip.Prefix, addr netip.Addr) class {
	layout := -1
	if e.ambiguous {
		layout = layoutOf(prefix, addr)
	}
	first := embeddedIn(prefix.Addr())
	var others class
	for i, read := range e.all() {
		if layout >= 0 && i < len(layouts) && i != layout {
			continue
		}
		others |= classify(read) &^ classify(first.addrs[i])
	}
	return e.classes() &^ others
}

// endpoint is an address that is looked at.
type endpoint struct {
	policy   *Policy
	addr     netip.Addr // without zone, and IPv4 if it is a mapped one
	embedded embedded
	port     uint16
	fixed    class // what is known without the host
	looked   bool  // whether the host has been looked at
	ours     class
}

func (p *Policy) endpoint(addr netip.AddrPort) endpoint {
	e := endpoint{policy: p, addr: addr.Addr().Unmap().WithZone(""), port: addr.Port()}
	e.fixed = classify(e.addr)
	if e.addr.Is6() {
		e.embedded = embeddedIn(e.addr)
		e.fixed |= e.embedded.classes()
	}
	return e
}

// classes are all of the endpoint.
func (e *endpoint) classes() class {
	if !e.looked {
		e.looked = true
		e.ours = e.isOurs()
	}
	return e.fixed | e.ours
}

// isOurs is what the endpoint is to this host.
func (e *endpoint) isOurs() class {
	var c class
	isLoopback := e.fixed&loopback != 0
	if !isLoopback && e.has() {
		c = host
	}
	if slices.Contains(e.policy.ownAddrs, e.addr) || (isLoopback || c != 0) && slices.Contains(e.policy.ownPorts, e.port) {
		c |= own
	}
	return c
}

func (e *endpoint) has() bool {
	h := e.policy.host
	return h != nil && (h.Has(e.addr) || slices.ContainsFunc(e.embedded.all(), h.Has))
}

// mayBeOwn reports whether the endpoint could be a socket of ours, without a look at the
// host, which costs more.
func (e *endpoint) mayBeOwn() bool {
	return slices.Contains(e.policy.ownPorts, e.port) || slices.Contains(e.policy.ownAddrs, e.addr)
}
