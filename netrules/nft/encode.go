package nft

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
)

// The registers that rules work with.
const (
	register = unix.NFT_REG_1
	second   = unix.NFT_REG_2
)

// maxComment is the longest comment that nft reads back from what it has printed, in bytes
// (NFTNL_UDATA_COMMENT_MAXLEN): else nobody could save a host's rule set and load it again.
const maxComment = 128

// Where things are in headers: of IPv4 (RFC 791), of IPv6 (RFC 8200), and of TCP (RFC 9293).
const (
	destination4 = 16
	destination6 = 24
	portOffset   = 2
	flagsOffset  = 13
)

// opening are the flags of a TCP header that say whether it opens a connection, and what they
// are where it does (netrules.Redirect).
const (
	fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10

	openingMask  = fin | syn | rst | ack
	openingFlags = "FIN,SYN,RST,ACK SYN"
)

// local is RTN_LOCAL of linux/rtnetlink.h: the type of an address of this namespace's own.
const local = unix.RTN_LOCAL

// encode translates a rule's arguments, as iptables takes them, to expressions and a comment.
// It knows what package netrules writes and no more. Each rule counts what it matches, as
// iptables' rules do.
func encode(f netrules.Family, args []string) (exprs []expr.Any, comment string, err error) {
	not := false
	// nft has the protocol right before what is TCP's own, where iptables has it before all
	// other matches, and makes no difference when it loads what it has printed.
	var protocol []expr.Any
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "!" {
			not = true
			continue
		}
		value := ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		var more []expr.Any
		switch arg {
		case "-d":
			more, err = toPrefix(f, value, not)
		case "-i":
			more = []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, compare(not, interfaceName(value))}
		case "-p":
			if value != "tcp" {
				err = fmt.Errorf("no protocol of ours: %q", value)
			}
			protocol = []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, compare(not, []byte{unix.IPPROTO_TCP})}
		case "-m": // which program's words follow
		case "--dst-type":
			if value != "LOCAL" {
				err = fmt.Errorf("no type of ours: %q", value)
			}
			more = []expr.Any{
				&expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true},
				compare(not, binaryutil.NativeEndian.PutUint32(local)),
			}
		case "--dport":
			var port uint16
			port, err = portOf(value)
			more = []expr.Any{
				&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: portOffset, Len: 2},
				compare(not, binaryutil.BigEndian.PutUint16(port)),
			}
		case "--tcp-flags":
			if strings.Join(args[i+1:min(i+3, len(args))], " ") != openingFlags {
				err = fmt.Errorf("no flags of ours: %q", value)
			}
			i++ // its second value
			more = []expr.Any{
				&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
				&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{openingMask}, Xor: []byte{0}},
				compare(not, []byte{syn}),
			}
		case "--comment":
			comment = value
		case "-j":
			more, err = verdict(f, args[i+1:])
			i = len(args)
		default:
			err = fmt.Errorf("no argument of ours: %q", arg)
		}
		if err != nil {
			return nil, "", err
		}
		if arg == "--dport" || arg == "--tcp-flags" || arg == "-j" {
			exprs, protocol = append(exprs, protocol...), nil
		}
		exprs = append(exprs, more...)
		not = false
		i++ // the value
	}
	exprs = append(exprs, protocol...)
	if len(exprs) == 0 || !isVerdict(exprs[len(exprs)-1]) {
		exprs = append(exprs, &expr.Counter{})
	}
	return exprs, comment, nil
}

func isVerdict(e expr.Any) bool {
	switch e.(type) {
	case *expr.Verdict, *expr.Redir, *expr.NAT:
		return true
	}
	return false
}

// verdict is what becomes of what has matched, after the count: a target and its options.
func verdict(f netrules.Family, target []string) ([]expr.Any, error) {
	exprs := []expr.Any{&expr.Counter{}}
	switch {
	case len(target) == 1 && target[0] == "RETURN":
		return append(exprs, &expr.Verdict{Kind: expr.VerdictReturn}), nil
	case len(target) == 1:
		return append(exprs, &expr.Verdict{Kind: expr.VerdictJump, Chain: target[0]}), nil
	case len(target) == 3 && target[0] == "REDIRECT" && target[1] == "--to-ports":
		port, err := portOf(target[2])
		return append(exprs,
			&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
			&expr.Redir{RegisterProtoMin: register}), err
	case len(target) == 3 && target[0] == "DNAT" && target[1] == "--to-destination":
		to, err := netip.ParseAddrPort(target[2])
		return append(exprs,
			&expr.Immediate{Register: register, Data: to.Addr().AsSlice()},
			&expr.Immediate{Register: second, Data: binaryutil.BigEndian.PutUint16(to.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfFamily(f)), RegAddrMin: register, RegProtoMin: second}), err
	}
	return nil, fmt.Errorf("no target of ours: %q", target)
}

// toPrefix matches a destination. Whole bytes are compared.
func toPrefix(f netrules.Family, text string, not bool) ([]expr.Any, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Bits()%8 != 0 || prefix.Bits() == 0 || prefix.Addr().Is6() != (f == netrules.IPv6) {
		return nil, fmt.Errorf("no destination of ours: %q", text)
	}
	offset := uint32(destination4)
	if f == netrules.IPv6 {
		offset = destination6
	}
	address := prefix.Addr().AsSlice()[:prefix.Bits()/8]
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(address))},
		compare(not, address),
	}, nil
}

func compare(not bool, data []byte) expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: register, Data: data}
}

// interfaceName is a name as the kernel compares it, with zeroes to IFNAMSIZ.
func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b[:unix.IFNAMSIZ-1], name)
	return b
}

func portOf(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("no port: %q", text)
	}
	return uint16(n), nil
}

// commentData is a comment as nft writes it.
func commentData(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }
