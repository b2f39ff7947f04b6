// Package advance redirects in a network namespace before iptables does: by one
// netlink message instead of several processes, which on a busy machine wait for
// their turn longer than a container takes to start.
//
// Its rules say the same as netrules.Redirect's. They are in an nftables table that
// no iptables command sees and that is gone when iptables has caught up, or when our
// process ends before. Connections that they have translated go on as long as any other
// rule of the namespace needs connection tracking, as iptables' REDIRECT does.
package advance

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
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

// The names of what is in it, and the priority of its chain, that of other rules which change
// the destination.
const (
	setName, chainName = "declared", "output"

	natDestination = -100
)

// Rules are those of one namespace. They are for one goroutine at a time.
type Rules struct {
	socket rawSocket       // the table's
	ports  map[uint16]bool // in the set
}

// Redirect redirects what is dialled inside ns at a loopback address of families
// and at one of ports to listen, until the rules are closed. A kernel without
// nftables, or before 5.12, has no means for it. A nil ns is the one that the calling
// thread is in, and then no other thread is waited for.
func Redirect(ns *netns.Namespace, families []netrules.Family, listen uint16, ports []netrules.Port) (*Rules, error) {
	s, err := openSocket(ns)
	if err != nil {
		return nil, fmt.Errorf("redirect in advance: %w", err)
	}
	r := &Rules{socket: s, ports: setOf(ports)}
	messages, err := r.messages(families, listen)
	if err == nil {
		err = s.transact(messages...)
	}
	if err != nil {
		_ = s.close()
		return nil, fmt.Errorf("redirect in advance: %w", err)
	}
	return r, nil
}

// Update redirects ports, and no others any more, in one transaction.
func (r *Rules) Update(ports []netrules.Port) error {
	wanted := setOf(ports)
	messages := append(
		portMessages(unix.NFT_MSG_NEWSETELEM, Table, setName, except(wanted, r.ports)),
		portMessages(unix.NFT_MSG_DELSETELEM, Table, setName, except(r.ports, wanted))...)
	if len(messages) == 0 {
		return nil
	}
	if err := r.socket.transact(messages...); err != nil {
		return fmt.Errorf("redirect in advance: %w", err)
	}
	r.ports = wanted
	return nil
}

// Socket is the descriptor that the rules go with: a process that has a duplicate of it can Adopt them.
func (r *Rules) Socket() int { return int(r.socket) }

// Adopt takes over rules for ports that another process has made, by their socket.
func Adopt(socketOf int, ports []netrules.Port) *Rules {
	return &Rules{socket: rawSocket(socketOf), ports: setOf(ports)}
}

// Close removes the rules. A second one does nothing.
func (r *Rules) Close() error {
	if r.socket < 0 {
		return nil
	}
	s := r.socket
	r.socket = -1
	return s.close()
}

func setOf(ports []netrules.Port) map[uint16]bool {
	set := make(map[uint16]bool, len(ports))
	for _, p := range ports {
		set[p.Number] = true
	}
	return set
}

// except are the ports of a that are not in b.
func except(a, b map[uint16]bool) []uint16 {
	var ports []uint16
	for port := range a {
		if !b[port] {
			ports = append(ports, port)
		}
	}
	return ports
}

// messages make the table.
func (r *Rules) messages(families []netrules.Family, listen uint16) ([]nftMessage, error) {
	const id = 1
	messages := []nftMessage{newTable(Table), newPortSet(Table, setName, id)}
	messages = append(messages, portMessages(unix.NFT_MSG_NEWSETELEM, Table, setName, except(r.ports, nil))...)
	messages = append(messages, newNATChain(Table, chainName, unix.NF_INET_LOCAL_OUT, natDestination))
	var failed error
	rule := func(comment string, exprs ...[]expr.Any) {
		m, err := newRule(Table, chainName, "ambassadord: "+comment, slices.Concat(exprs...))
		messages, failed = append(messages, m), errors.Join(failed, err)
	}
	toDeclared := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: register, SetName: setName, SetID: id},
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
	return messages, failed
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
