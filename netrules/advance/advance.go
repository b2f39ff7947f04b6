// Package advance redirects in a network namespace before iptables does: by one
// netlink message instead of several processes, which on a busy machine wait for
// their turn longer than a container takes to start.
//
// Its rules say the same as netrules.Redirect's. They are in an nftables table that
// no iptables command sees and that is gone when iptables has caught up, or when our
// process ends before. What they have translated goes on as long as any other
// rule of the namespace needs connection tracking, as iptables' REDIRECT does.
package advance

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/owned"
)

// Table is the name of our table, of the family inet.
const Table = "ambassadord-advance"

// register is what every rule works with.
const register = unix.NFT_REG_1

// The flags of a TCP header that say whether it opens a connection, and where they stand
// (RFC 9293).
const (
	tcpFlags = 13

	fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10
)

// Redirect redirects what is dialled inside ns at a loopback address of families
// and at one of ports to listen, until the table is closed. A kernel without
// nftables, or before 5.12, has no means for it.
func Redirect(ns *netns.Namespace, families []netrules.Family, listen uint16, ports []netrules.Port) (*owned.Table, error) {
	t, err := owned.Make(ns, nftables.TableFamilyINet, Table, 0)
	if err == nil {
		if err = fill(t, families, listen, ports); err != nil {
			_ = t.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("redirect in advance in network namespace %s: %w", ns.Path(), err)
	}
	return t, nil
}

func fill(t *owned.Table, families []netrules.Family, listen uint16, ports []netrules.Port) error {
	// With an ID of our own, because google/nftables counts its IDs for all goroutines
	// without a lock; in a table it needs to be unique for one transaction.
	declared := &nftables.Set{Table: t.Table, ID: 1, Name: "declared", KeyType: nftables.TypeInetService}
	var elements []nftables.SetElement
	for _, p := range ports {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p.Number)})
	}
	if err := t.Conn.AddSet(declared, elements); err != nil {
		return err
	}
	chain := t.Conn.AddChain(&nftables.Chain{
		Name: "output", Table: t.Table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	rule := func(comment string, exprs ...[]expr.Any) {
		t.Conn.AddRule(&nftables.Rule{
			Table: t.Table, Chain: chain, Exprs: slices.Concat(exprs...),
			UserData: userdata.AppendString(nil, userdata.TypeComment, "ambassadord: "+comment),
		})
	}
	toDeclared := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: register, SetName: declared.Name, SetID: declared.ID},
		// A segment that opens a connection, and no other: the rule is younger than what is
		// under way in there (see netrules.Redirect).
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{syn}},
		&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(listen)},
		&expr.Redir{RegisterProtoMin: register},
	}
	for _, f := range families {
		if f == netrules.IPv6 {
			rule("until iptables has caught up", to(unix.NFPROTO_IPV6, 24, append(make([]byte, 15), 1)), toDeclared)
			continue
		}
		rule("leave the DNS of Docker alone", to(unix.NFPROTO_IPV4, 16, []byte{127, 0, 0, 11}),
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
		rule("until iptables has caught up", to(unix.NFPROTO_IPV4, 16, []byte{127}), toDeclared)
	}
	return t.Flush()
}

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
