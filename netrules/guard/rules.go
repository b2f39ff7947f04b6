package guard

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Registers: what is compared goes into the first, which the two words of a
// binding's key share with it, the port first (NFT_REG_1, NFT_REG32_01 of
// linux/netfilter/nf_tables.h).
const (
	first  = unix.NFT_REG_1
	second = unix.NFT_REG32_01
)

// field is where a value stands in a packet.
type field struct {
	base        expr.PayloadBase
	offset, len uint32
}

// The fields, from the beginning of the ARP, IPv4, IPv6, TCP or ICMPv6 header (RFC
// 826, 791, 8200, 9293, 4861).
var (
	arpSender   = field{expr.PayloadBaseNetworkHeader, 14, 4}
	ip4Fragment = field{expr.PayloadBaseNetworkHeader, 6, 2}
	ip4Source   = field{expr.PayloadBaseNetworkHeader, 12, 4}
	ip4Dest     = field{expr.PayloadBaseNetworkHeader, 16, 4}
	ip6Source   = field{expr.PayloadBaseNetworkHeader, 8, 16}
	ip6Dest     = field{expr.PayloadBaseNetworkHeader, 24, 16}
	tcpFlags    = field{expr.PayloadBaseTransportHeader, 13, 1}
	icmpType    = field{expr.PayloadBaseTransportHeader, 0, 1}
	ndTarget    = field{expr.PayloadBaseTransportHeader, 8, 16}
)

const (
	tcpSYN, tcpACK = 0x02, 0x10

	// Neighbour discovery is the ICMPv6 types from router solicitation to redirect.
	ndFirst, ndAdvertisement, ndLast = 133, 136, 137
)

// rules returns the rules of the one chain. A packet that a rule matches is dropped.
func rules(v4, v6 sets) []*nftables.Rule {
	ip4 := func(more ...[]expr.Any) [][]expr.Any { return append([][]expr.Any{protocol(unix.ETH_P_IP)}, more...) }
	ip6 := func(more ...[]expr.Any) [][]expr.Any { return append([][]expr.Any{protocol(unix.ETH_P_IPV6)}, more...) }
	return []*nftables.Rule{
		drop("ARP for a client's address that is behind another port",
			protocol(unix.ETH_P_ARP), in(v4.clients, arpSender), unbound(v4, arpSender)),
		drop("neighbour discovery from a client's address that is behind another port",
			ip6(transport(unix.IPPROTO_ICMPV6), between(icmpType, ndFirst, ndLast), in(v6.clients, ip6Source), unbound(v6, ip6Source))...),
		drop("neighbour advertisement of a client's address that is behind another port",
			ip6(transport(unix.IPPROTO_ICMPV6), between(icmpType, ndAdvertisement, ndAdvertisement), in(v6.clients, ndTarget), unbound(v6, ndTarget))...),

		drop("to us from a client's address that is behind another port",
			ip4(in(v4.ours, ip4Dest), in(v4.clients, ip4Source), unbound(v4, ip4Source))...),
		drop("connection to us from an address that is not known to be behind this port",
			ip4(in(v4.ours, ip4Dest), transport(unix.IPPROTO_TCP), opening(), unbound(v4, ip4Source))...),
		drop("fragment to us from an address that is not known to be behind this port",
			ip4(in(v4.ours, ip4Dest), transport(unix.IPPROTO_TCP), fragment4(), unbound(v4, ip4Source))...),

		drop("to us from a client's address that is behind another port",
			ip6(in(v6.ours, ip6Dest), in(v6.clients, ip6Source), unbound(v6, ip6Source))...),
		drop("connection to us from an address that is not known to be behind this port",
			ip6(in(v6.ours, ip6Dest), transport(unix.IPPROTO_TCP), opening(), unbound(v6, ip6Source))...),
		drop("fragment to us from an address that is not known to be behind this port",
			ip6(in(v6.ours, ip6Dest), fragment6(), unbound(v6, ip6Source))...),
	}
}

// commentPrefix starts every comment of ours.
const commentPrefix = "ambassadord: "

func drop(what string, matches ...[]expr.Any) *nftables.Rule {
	r := &nftables.Rule{UserData: userdata.AppendString(nil, userdata.TypeComment, commentPrefix+what)}
	for _, m := range matches {
		r.Exprs = append(r.Exprs, m...)
	}
	r.Exprs = append(r.Exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	return r
}

func load(f field, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: f.base, Offset: f.offset, Len: f.len}
}

func compare(op expr.CmpOp, value ...byte) expr.Any {
	return &expr.Cmp{Op: op, Register: first, Data: value}
}

// protocol matches the frame's EtherType.
func protocol(etherType uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: first},
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, etherType)...),
	}
}

// transport matches the protocol above IP, behind all extension headers.
func transport(protocol byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: first}, compare(expr.CmpOpEq, protocol)}
}

func between(f field, low, high byte) []expr.Any {
	if low == high {
		return []expr.Any{load(f, first), compare(expr.CmpOpEq, low)}
	}
	return []expr.Any{load(f, first), compare(expr.CmpOpGte, low), compare(expr.CmpOpLte, high)}
}

func in(set *nftables.Set, f field) []expr.Any {
	return []expr.Any{load(f, first), &expr.Lookup{SourceRegister: first, SetName: set.Name, SetID: set.ID}}
}

// unbound matches an address that is not bound to the port that the frame came in
// by.
func unbound(s sets, f field) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: first},
		load(f, second),
		&expr.Lookup{SourceRegister: first, SetName: s.bound.Name, SetID: s.bound.ID, Invert: true},
	}
}

// opening matches SYN without ACK, whatever flags are there besides.
func opening() []expr.Any {
	return []expr.Any{
		load(tcpFlags, first),
		&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: 1, Mask: []byte{tcpSYN | tcpACK}, Xor: []byte{0}},
		compare(expr.CmpOpEq, tcpSYN),
	}
}

// fragment4 matches a packet that has more fragments or an offset.
func fragment4() []expr.Any {
	return []expr.Any{
		load(ip4Fragment, first),
		&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: 2, Mask: []byte{0x3f, 0xff}, Xor: []byte{0, 0}},
		compare(expr.CmpOpNeq, 0, 0),
	}
}

// fragment6 matches a packet with a fragment header.
func fragment6() []expr.Any {
	return []expr.Any{
		&expr.Exthdr{
			DestRegister: first, Type: unix.IPPROTO_FRAGMENT, Len: 1,
			Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6,
		},
		compare(expr.CmpOpEq, 1),
	}
}
