package netrules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Chain is a chain of ours as it should be, with the jump that leads to it.
type Chain struct {
	Family Family
	Table  string // e.g. "nat"
	Name   string // starts with ChainPrefix
	Hook   string // the built-in chain the jump stands in, e.g. "OUTPUT"
	Rules  []Rule
}

// Port is a declared TCP port and, for the rule's comment, who declared it.
type Port struct {
	Number  uint16
	Comment string
}

// Redirect returns the chain that goes into a client's network namespace. A TCP
// connection from inside to a loopback address and a declared port arrives at
// the listen port on loopback; SO_ORIGINAL_DST there tells the declared port.
//
// Docker's embedded DNS server at 127.0.0.11 is a loopback address too, so it is
// let go first, whatever ports are declared. Of ports declared twice the first
// counts. A connection to a port that is older than the rule goes on (see opening).
// Without any port there is no REDIRECT rule left to keep the kernel
// translating connections that are still open; to drain them, unhook instead.
func Redirect(f Family, listen uint16, ports []Port) Chain {
	c := Chain{Family: f, Table: "nat", Name: ChainPrefix, Hook: "OUTPUT"}
	loopback := "127.0.0.0/8"
	if f == IPv6 {
		loopback = "::1/128"
	} else {
		c.Rules = append(c.Rules, Rule{
			Spec:    []string{"-d", "127.0.0.11/32", "-j", "RETURN"},
			Comment: ownerPrefix + "leave the DNS of Docker alone",
		})
	}
	ports = slices.Clone(ports)
	slices.SortStableFunc(ports, func(a, b Port) int { return cmp.Compare(a.Number, b.Number) })
	ports = slices.CompactFunc(ports, func(a, b Port) bool { return a.Number == b.Number })
	for _, p := range ports {
		c.Rules = append(c.Rules, Rule{
			Spec: slices.Concat(
				[]string{"-d", loopback, "-p", "tcp", "-m", "tcp", "--dport", port(p.Number)}, opening(),
				[]string{"-j", "REDIRECT", "--to-ports", port(listen)}),
			Comment: ownerPrefix + p.Comment,
		})
	}
	return c
}

// Link returns the chain for the daemon's own network namespace when clients
// dial the daemon's address there by a link or a network alias: TCP from outside
// to any port of any local address arrives at the listen port. A connection that comes in
// over lo is the daemon's own and stays as it is.
func Link(f Family, listen uint16) Chain {
	return Chain{
		Family: f, Table: "nat", Name: ChainPrefix, Hook: "PREROUTING",
		Rules: []Rule{{
			Spec: slices.Concat(
				[]string{
					"!", "-i", "lo", "-p", "tcp", "-m", "addrtype", "--dst-type", "LOCAL",
					"-m", "tcp", "!", "--dport", port(listen),
				}, opening(),
				[]string{"-j", "REDIRECT", "--to-ports", port(listen)}),
			Comment: ownerPrefix + "any port of ours to the link listener",
		}},
	}
}

// HostChain is the name of the chain that Host returns.
const HostChain = ChainPrefix + "_HOST"

// Host returns the chain for the host's network namespace when clients dial the
// fixed per-host address addr: TCP from outside to any port of it arrives at the
// listen port of the same address, where SO_ORIGINAL_DST tells the port that was
// dialled. Connections of the host itself never pass PREROUTING.
//
// It is not for what opens a connection alone, as the others are: Docker's own rules have
// every connection on a host tracked, so one that is older than the rule is known to be; and
// Docker has the kernel forget all connections of a container's address whenever its networks
// change, after which those that we carry have to be translated from their midst.
func Host(f Family, addr netip.Addr, listen uint16) Chain {
	return Chain{
		Family: f, Table: "nat", Name: HostChain, Hook: "PREROUTING",
		Rules: []Rule{{
			Spec: []string{
				"-d", netip.PrefixFrom(addr, addr.BitLen()).String(), "-p", "tcp",
				"-j", "DNAT", "--to-destination", netip.AddrPortFrom(addr, listen).String(),
			},
			Comment: ownerPrefix + "any port of the host address to its listener",
		}},
	}
}

// opening matches the segment that opens a TCP connection, as iptables' --syn does, and
// no other, whatever ECN, PSH or URG say. The nat table is asked once a connection, at the
// first packet that the kernel tracks; of a connection that is older than the rule, or than
// any tracking, that is one from its midst, and translating that would reset it.
func opening() []string { return []string{"--tcp-flags", "FIN,SYN,RST,ACK", "SYN"} }

// Jump returns the rule that leads from the chain's hook into the chain.
func (c Chain) Jump() Rule {
	return Rule{Spec: []string{"-j", c.Name}, Comment: JumpComment}
}

// String renders the chain and its jump as the part of iptables-save's output
// they make up, for people and for golden files.
func (c Chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n%s\n", c.Table, c.Name, c.Jump().Text(c.Hook))
	for _, r := range c.Rules {
		b.WriteString(r.Text(c.Name) + "\n")
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func port(n uint16) string { return strconv.Itoa(int(n)) }
