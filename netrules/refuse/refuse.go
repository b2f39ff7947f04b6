// Package refuse answers connections to ports with a reset before anybody accepts them.
//
// The kernel accepts a connection for a listening socket by itself, so a client that only connects,
// as `nc -z` does, is told that somebody is there before our process has been asked. A
// filter before the translation of addresses (netrules) sees the port that was dialled, and
// rejects the SYN (tcp(7)), so connect(2) fails with ECONNREFUSED.
//
// The rules are in an nftables table that goes with our process, however that ends, and
// that nobody else can change or flush (netrules/owned).
package refuse

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/owned"
)

// Name is that of our table, of the family inet.
const Name = "ambassadord-refuse"

// ErrUnsupported says that this kernel has no means for it.
var ErrUnsupported = errors.New("no ports can be refused early: it takes nftables of Linux 5.12, and NET_ADMIN")

// register is what every rule works with.
const register = unix.NFT_REG_1

// Ports is a set of ports that are refused in one network namespace. It is for one
// goroutine at a time.
type Ports struct {
	ns    *netns.Namespace
	table *owned.Table
	set   *nftables.Set
	now   []uint16 // sorted
}

// Open makes the set, empty. Loopback addresses of both families are refused, but for that
// of Docker's DNS.
func Open(ns *netns.Namespace) (*Ports, error) {
	t, err := owned.Make(ns, nftables.TableFamilyINet, Name, 0)
	p := &Ports{ns: ns, table: t}
	if err == nil {
		if err = p.fill(); err != nil {
			_ = t.Close()
		}
	}
	if err == nil {
		return p, nil
	}
	for _, unsupported := range []error{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL, unix.ENOENT} {
		if errors.Is(err, unsupported) {
			err = fmt.Errorf("%w: %w", ErrUnsupported, err)
			break
		}
	}
	return nil, fmt.Errorf("refuse ports early in network namespace %s: %w", ns.Path(), err)
}

func (p *Ports) fill() error {
	// With an ID of our own, because google/nftables counts its IDs for all goroutines
	// without a lock; in a table it needs to be unique for one transaction.
	p.set = &nftables.Set{Table: p.table.Table, ID: 1, Name: "refused", KeyType: nftables.TypeInetService}
	if err := p.table.Conn.AddSet(p.set, nil); err != nil {
		return err
	}
	chain := p.table.Conn.AddChain(&nftables.Chain{
		Name: "output", Table: p.table.Table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle, // before nat
	})
	rule := func(comment string, exprs ...[]expr.Any) {
		p.table.Conn.AddRule(&nftables.Rule{
			Table: p.table.Table, Chain: chain, Exprs: slices.Concat(exprs...),
			UserData: userdata.AppendString(nil, userdata.TypeComment, "ambassadord: "+comment),
		})
	}
	refused := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{finSynRstAck}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{syn}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: register, SetName: p.set.Name, SetID: p.set.ID},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
	rule("leave the DNS of Docker alone", to(unix.NFPROTO_IPV4, 16, []byte{127, 0, 0, 11}),
		[]expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	rule("nobody serves these ports now", to(unix.NFPROTO_IPV4, 16, []byte{127}), refused)
	rule("nobody serves these ports now", to(unix.NFPROTO_IPV6, 24, append(make([]byte, 15), 1)), refused)
	return p.table.Flush()
}

// The flags of a TCP header.
const (
	syn          = 0x02
	finSynRstAck = 0x01 | syn | 0x04 | 0x10
)

// to matches packets of a protocol (NFPROTO_*) whose destination, which is at that
// offset of the header, begins with prefix.
func to(protocol byte, offset uint32, prefix []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{protocol}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(prefix))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: prefix},
	}
}

// Set makes ports, each once, those that are refused, in one transaction.
func (p *Ports) Set(ports []uint16) error {
	next := slices.Sorted(slices.Values(ports))
	added, removed := missing(next, p.now), missing(p.now, next)
	if len(added)+len(removed) == 0 {
		return nil
	}
	var err error
	if len(removed) > 0 {
		err = p.table.Conn.SetDeleteElements(p.set, elements(removed))
	}
	if err == nil && len(added) > 0 {
		err = p.table.Conn.SetAddElements(p.set, elements(added))
	}
	if err == nil {
		err = p.table.Flush()
	}
	if err != nil {
		return fmt.Errorf("refuse ports early in network namespace %s: %w", p.ns.Path(), err)
	}
	p.now = next
	return nil
}

// missing are those of all that are not among known, which is sorted.
func missing(all, known []uint16) (ports []uint16) {
	for _, port := range all {
		if _, found := slices.BinarySearch(known, port); !found {
			ports = append(ports, port)
		}
	}
	return ports
}

func elements(ports []uint16) []nftables.SetElement {
	all := make([]nftables.SetElement, len(ports))
	for i, port := range ports {
		all[i].Key = binaryutil.BigEndian.PutUint16(port)
	}
	return all
}

// Close refuses nothing any more.
func (p *Ports) Close() error { return p.table.Close() }
