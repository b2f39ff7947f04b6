package nft

// A rule is arguments of iptables to package netrules and expressions to the kernel. What is
// translated one way stands here beside the way back, for a match has to be in both.

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// The registers that rules work with.
const (
	register = unix.NFT_REG_1
	second   = unix.NFT_REG_2
)

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
// rule is one as it was read.
type rule struct {
	chain    string
	handle   uint64
	args     []string
	counters netrules.Counters
}

// decode reads a rule as the kernel describes it (nf_tables_fill_rule_info). An expression that
// none of our rules has becomes an argument that none has.
func decode(f netrules.Family, attrs []netlink.Attribute) rule {
	r := rule{
		chain:  nfnetlink.Text(nfnetlink.Data(attrs, unix.NFTA_RULE_CHAIN)),
		handle: handleOf(nfnetlink.Data(attrs, unix.NFTA_RULE_HANDLE)),
	}
	d := decoder{family: f}
	for name, data := range nfnetlink.EachExpression(nfnetlink.Data(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
		d.exprs = append(d.exprs, decodeExpr(nfFamily(f), name, data))
	}
	for len(d.exprs) > 0 {
		d.next()
	}
	if comment := commentOf(nfnetlink.Data(attrs, unix.NFTA_RULE_USERDATA)); comment != "" {
		d.matches = append(d.matches, "-m", "comment", "--comment", comment)
	}
	r.args, r.counters = slices.Concat(d.header, d.matches, d.target), d.counters
	return r
}

// unknown is an expression that no rule of ours has.
type unknown string

// decodeExpr returns an expression of a kind that we use, else unknown.
func decodeExpr(family byte, name string, data []byte) any {
	var e expr.Any
	switch name {
	case "meta":
		e = &expr.Meta{}
	case "payload":
		e = &expr.Payload{}
	case "bitwise":
		e = &expr.Bitwise{}
	case "cmp":
		e = &expr.Cmp{}
	case "fib":
		e = &expr.Fib{}
	case "counter":
		e = &expr.Counter{}
	case "redir":
		e = &expr.Redir{}
	case "nat":
		e = &expr.NAT{}
	case "immediate":
		if nfnetlink.Nested(nfnetlink.Nested(data, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT) != nil {
			e = &expr.Verdict{}
		} else {
			e = &expr.Immediate{}
		}
	default:
		return unknown(name)
	}
	if err := expr.Unmarshal(family, data, e); err != nil {
		return unknown(name)
	}
	return e
}

// decoder turns expressions back into arguments, in the order in which iptables has them.
type decoder struct {
	family   netrules.Family
	exprs    []any    // those that are left
	header   []string // what iptables has before all other matches
	matches  []string
	target   []string
	counters netrules.Counters
	tcp      bool // the words of TCP have been named
}

// next takes as many expressions as make one argument.
func (d *decoder) next() {
	if len(d.target) > 0 { // ours end with their target
		d.strange()
		return
	}
	switch e := d.exprs[0].(type) {
	case *expr.Counter:
		d.counters = netrules.Counters{Packets: e.Packets, Bytes: e.Bytes}
		d.exprs = d.exprs[1:]
	case *expr.Verdict:
		d.verdict(e)
	case *expr.Immediate:
		d.translation(e)
	case *expr.Meta, *expr.Fib, *expr.Payload:
		d.match()
	default:
		d.strange()
	}
}

// strange gives the first expression up.
func (d *decoder) strange() {
	name := fmt.Sprintf("%T", d.exprs[0])
	if u, ok := d.exprs[0].(unknown); ok {
		name = string(u)
	}
	d.matches = append(d.matches, "-m", "nft:"+name)
	d.exprs = d.exprs[1:]
}

func (d *decoder) verdict(e *expr.Verdict) {
	switch e.Kind {
	case expr.VerdictReturn:
		d.target = []string{"-j", "RETURN"}
	case expr.VerdictJump:
		d.target = []string{"-j", e.Chain}
	case expr.VerdictGoto:
		d.target = []string{"-g", e.Chain}
	case expr.VerdictAccept:
		d.target = []string{"-j", "ACCEPT"}
	case expr.VerdictDrop:
		d.target = []string{"-j", "DROP"}
	default:
		d.strange()
		return
	}
	d.exprs = d.exprs[1:]
}

// translation reads REDIRECT and DNAT.
func (d *decoder) translation(first *expr.Immediate) {
	if len(d.exprs) >= 2 && first.Register == register && len(first.Data) == 2 {
		if redir, ok := d.exprs[1].(*expr.Redir); ok && redir.RegisterProtoMin == register && (redir.RegisterProtoMax == 0 || redir.RegisterProtoMax == register) {
			d.target = []string{"-j", "REDIRECT", "--to-ports", portText(first.Data)}
			d.exprs = d.exprs[2:]
			return
		}
	}
	if len(d.exprs) >= 3 && first.Register == register {
		port, isPort := d.exprs[1].(*expr.Immediate)
		nat, isNAT := d.exprs[2].(*expr.NAT)
		addr, isAddr := netip.AddrFromSlice(first.Data)
		if isPort && isNAT && isAddr && port.Register == second && len(port.Data) == 2 &&
			nat.Type == expr.NATTypeDestNAT && nat.RegAddrMin == register && nat.RegProtoMin == second &&
			(nat.RegAddrMax == 0 || nat.RegAddrMax == register) && (nat.RegProtoMax == 0 || nat.RegProtoMax == second) {
			d.target = []string{"-j", "DNAT", "--to-destination", netip.AddrPortFrom(addr, binaryutil.BigEndian.Uint16(port.Data)).String()}
			d.exprs = d.exprs[3:]
			return
		}
	}
	d.strange()
}

// match reads something that is loaded, perhaps masked, and compared.
func (d *decoder) match() {
	size := 2
	var mask *expr.Bitwise
	if len(d.exprs) >= 3 {
		if b, ok := d.exprs[1].(*expr.Bitwise); ok {
			mask, size = b, 3
		}
	}
	if len(d.exprs) < size {
		d.strange()
		return
	}
	cmp, ok := d.exprs[size-1].(*expr.Cmp)
	if !ok || cmp.Register != register || cmp.Op != expr.CmpOpEq && cmp.Op != expr.CmpOpNeq {
		d.strange()
		return
	}
	args, tcp := d.matchArgs(d.exprs[0], mask, cmp.Data)
	if args == nil || mask != nil && cmp.Op != expr.CmpOpEq {
		d.strange()
		return
	}
	if tcp && !d.tcp {
		d.tcp = true
		d.matches = append(d.matches, "-m", "tcp")
	}
	if cmp.Op == expr.CmpOpNeq { // it stands before the option, and that behind its match's name
		at := len(args) - 2
		args = slices.Insert(args, at, "!")
	}
	switch args[len(args)-2] {
	case "-d", "-i", "-p":
		d.header = append(d.header, args...)
	default:
		d.matches = append(d.matches, args...)
	}
	d.exprs = d.exprs[size:]
}

// matchArgs is what is compared, nil if that is none of ours; tcp says that it is TCP's.
func (d *decoder) matchArgs(load any, mask *expr.Bitwise, data []byte) (args []string, tcp bool) {
	if mask != nil {
		p, ok := load.(*expr.Payload)
		if ok && *p == (expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1}) &&
			bytes.Equal(mask.Mask, []byte{openingMask}) && bytes.Equal(mask.Xor, []byte{0}) && bytes.Equal(data, []byte{syn}) {
			return []string{"--tcp-flags", "FIN,SYN,RST,ACK", "SYN"}, true
		}
		return nil, false
	}
	switch e := load.(type) {
	case *expr.Meta:
		switch {
		case e.Register != register || e.SourceRegister:
		case e.Key == expr.MetaKeyL4PROTO && bytes.Equal(data, []byte{unix.IPPROTO_TCP}):
			return []string{"-p", "tcp"}, false
		case e.Key == expr.MetaKeyIIFNAME && len(data) == unix.IFNAMSIZ:
			return []string{"-i", nfnetlink.Text(data)}, false
		}
	case *expr.Fib:
		if *e == (expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true}) && bytes.Equal(data, binaryutil.NativeEndian.PutUint32(local)) {
			return []string{"-m", "addrtype", "--dst-type", "LOCAL"}, false
		}
	case *expr.Payload:
		switch {
		case e.DestRegister != register || e.OperationType != expr.PayloadLoad:
		case e.Base == expr.PayloadBaseNetworkHeader:
			return d.destination(e, data), false
		case e.Base == expr.PayloadBaseTransportHeader && e.Offset == portOffset && e.Len == 2 && len(data) == 2:
			return []string{"--dport", portText(data)}, true
		}
	}
	return nil, false
}

// destination reads a prefix of whole bytes.
func (d *decoder) destination(e *expr.Payload, data []byte) []string {
	offset, size := uint32(destination4), 4
	if d.family == netrules.IPv6 {
		offset, size = destination6, 16
	}
	if e.Offset != offset || int(e.Len) != len(data) || len(data) > size {
		return nil
	}
	whole := make([]byte, size)
	copy(whole, data)
	addr, _ := netip.AddrFromSlice(whole)
	return []string{"-d", netip.PrefixFrom(addr, 8*len(data)).String()}
}

func portText(b []byte) string { return fmt.Sprint(binaryutil.BigEndian.Uint16(b)) }
