// Package netrules is the set of packet-filter rules the daemon wants, as data.
//
// Everything here is pure: a [Chain] says what should be in the kernel, a
// [State] says what is there (parsed from the output of `iptables -S`), and
// [Plan] answers with the [Change] list that leads from one to the other.
// The same plan serves applying, dry runs, checks and golden tests. Running
// commands is left to package netrules/iptables, and entering another network
// namespace to package netrules/netns.
//
// Only chains whose name starts with [ChainPrefix], and the jumps to them, are
// ever planned for. A built-in chain is never flushed: in a container on a user
// network that would remove Docker's own rules for its DNS server at 127.0.0.11.
package netrules

import (
	"errors"
	"fmt"
	"net/netip"
)

// Family is an IP version; iptables and ip6tables hold separate rules for each.
type Family uint8

// The two families, and that of what is the same for both and no iptables holds.
const (
	IPv4   Family = 4
	IPv6   Family = 6
	Bridge Family = 7
)

// Families are those in which connections are redirected.
func Families() []Family { return []Family{IPv4, IPv6} }

// FamilyOf returns the family in which connections to addr are redirected.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is6() {
		return IPv6
	}
	return IPv4
}

// The ports at which the daemon listens inside containers, first to last: above the ephemeral
// range (ip_local_port_range ends at 60999), where neither outgoing connections nor servers
// usually are.
const (
	FirstListenPort = 61000
	LastListenPort  = 61099
)

// String returns "ipv4", "ipv6" or "bridge".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	case Bridge:
		return "bridge"
	}
	return fmt.Sprintf("family(%d)", uint8(f))
}

// Command returns the name of the program that holds the family's rules.
func (f Family) Command() string {
	if f == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// ErrUnsupported says that this machine holds no rules for the family: the program is not
// installed or the kernel lacks what they need.
var ErrUnsupported = errors.New("no packet filter for this address family")

// Variant is what holds the rules: which of the kernel's two packet filters, and who made
// them there. A namespace may hold rules in all of them.
type Variant string

// The variants. The first two are those of the iptables programs, as `iptables --version` names
// them, which share the tables of nf_tables or of the legacy filter with everybody; the third
// is tables of our own in nf_tables.
const (
	IPTablesNFT    Variant = "nf_tables"
	IPTablesLegacy Variant = "legacy"
	NFT            Variant = "nft"
)

const (
	// ChainPrefix starts the name of every chain of ours, and of nobody else's.
	ChainPrefix = "AMBASSADORD"

	// JumpComment is the comment on the rule in a built-in chain that leads to ours.
	JumpComment = "ambassadord"

	// TableMarker is the comment of a rule without a target that opens our chain
	// when its table did not exist before us. It lives in the kernel so that
	// whoever cleans up after a killed daemon still knows.
	TableMarker = "ambassadord: this nat table was made by us"
)
