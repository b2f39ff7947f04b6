// Package guard keeps containers from using each other's source addresses where a
// client is known by nothing else.
//
// A container that may make raw packets, as every one may by default, or that may
// set its addresses, can send frames with any source address to its bridge, and
// have the answers sent to it by forged ARP. So a [Guard] is an nftables table of
// the bridge family that knows behind which bridge port each client's address is
// ([Binding]), and drops what comes in by a port and
//
//   - is ARP or neighbour discovery that speaks for a client's address which is
//     bound to another port;
//   - is a packet to us from such an address;
//   - opens a TCP connection to us, or is a fragment of what might, from any
//     address that is not bound to that port.
//
// Everything else passes untouched, whoever's it is.
//
// The table belongs to the netlink socket that made it (NFT_TABLE_F_OWNER, Linux
// 5.12): nobody else can change or flush it, and it goes with our process, however
// that ends. Old bindings that outlived us would cut off a container that is given
// an address again.
package guard

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// answerTimeout bounds every exchange with the kernel, which answers at once.
const answerTimeout = 10 * time.Second

// transactionSize is room for more bindings than a host has containers: a
// transaction is one datagram.
const transactionSize = 8 << 20

// Binding is a client's address and the one bridge port that it may come from.
type Binding struct {
	Port int // the interface index of the bridge port
	Addr netip.Addr
}

// Guard is a table in the kernel. Its methods are for one goroutine at a time.
type Guard struct {
	conn   *nftables.Conn
	socket *netlink.Conn // conn's
	table  *nftables.Table
	v4, v6 sets
	bound  []Binding
}

// sets are those of one address family.
type sets struct{ ours, clients, bound *nftables.Set }

// Install makes the table in a namespace, nil being the process's own, and guards
// connections to ours with it. No address is bound yet, so no connection to ours
// gets in over a bridge. It takes CAP_NET_ADMIN.
//
// It fails with EEXIST or EPERM when there is a table of that name.
func Install(ns *netns.Namespace, name string, ours []netip.Addr) (*Guard, error) {
	g := &Guard{table: &nftables.Table{Name: name, Family: nftables.TableFamilyBridge}}
	open := func() (err error) {
		g.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			g.socket = c
			return c.SetWriteBuffer(transactionSize)
		}))
		return err
	}
	var err error
	if ns == nil {
		err = open()
	} else {
		err = ns.Do(open) // the socket stays in the namespace that it was made in
	}
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	err = g.makeTable()
	if err == nil {
		err = g.fill(ours)
	}
	if err != nil {
		_ = g.conn.CloseLasting()
		err = fmt.Errorf("make table bridge %s: %w", name, err)
		if errors.Is(err, unix.EEXIST) {
			err = hint.Wrap(err, "it is no running daemon's: nft delete table bridge "+name)
		}
		return nil, err
	}
	return g, nil
}

// fill makes the sets, the chain and its rules, in one transaction.
func (g *Guard) fill(ours []netip.Addr) error {
	var err error
	if g.v4, err = g.addSets("4", nftables.TypeIPAddr); err != nil {
		return err
	}
	if g.v6, err = g.addSets("6", nftables.TypeIP6Addr); err != nil {
		return err
	}
	var four, six []nftables.SetElement
	for _, a := range ours {
		if e := (nftables.SetElement{Key: a.AsSlice()}); a.Is4() {
			four = append(four, e)
		} else {
			six = append(six, e)
		}
	}
	if err := errors.Join(g.add(g.v4.ours, four), g.add(g.v6.ours, six)); err != nil {
		return err
	}
	// Before br_netfilter (priority 0), which may hand a frame to the rules of IP.
	chain := g.conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: g.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-300),
	})
	for _, r := range rules(g.v4, g.v6) {
		r.Table, r.Chain = g.table, chain
		g.conn.AddRule(r)
	}
	return g.flush()
}

func (g *Guard) addSets(suffix string, addr nftables.SetDatatype) (sets, error) {
	s := sets{
		ours:    &nftables.Set{Table: g.table, Name: "ours" + suffix, KeyType: addr},
		clients: &nftables.Set{Table: g.table, Name: "clients" + suffix, KeyType: addr},
		bound: &nftables.Set{
			Table: g.table, Name: "bound" + suffix, Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, addr),
		},
	}
	for _, set := range []*nftables.Set{s.ours, s.clients, s.bound} {
		if err := g.conn.AddSet(set, nil); err != nil {
			return s, err
		}
	}
	return s, nil
}

// add adds elements, some at a time: a netlink attribute holds 64 KiB.
func (g *Guard) add(set *nftables.Set, elements []nftables.SetElement) error {
	const some = 500
	for chunk := range slices.Chunk(elements, some) {
		if err := g.conn.SetAddElements(set, chunk); err != nil {
			return err
		}
	}
	return nil
}

// Bind replaces all bindings, in one transaction. An address that is listed for
// two ports may come from either. After an error it is not known what is bound:
// Close the Guard and install another.
func (g *Guard) Bind(bindings []Binding) error {
	bindings = slices.Clone(bindings)
	slices.SortFunc(bindings, func(a, b Binding) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port)) })
	bindings = slices.Compact(bindings)
	if slices.Equal(bindings, g.bound) {
		return nil
	}
	for _, family := range []struct {
		sets sets
		is   func(netip.Addr) bool
	}{{g.v4, netip.Addr.Is4}, {g.v6, netip.Addr.Is6}} {
		var clients, bound []nftables.SetElement
		for i, b := range bindings {
			if !family.is(b.Addr) {
				continue
			}
			if i == 0 || bindings[i-1].Addr != b.Addr {
				clients = append(clients, nftables.SetElement{Key: b.Addr.AsSlice()})
			}
			bound = append(bound, nftables.SetElement{
				Key: append(binary.NativeEndian.AppendUint32(nil, uint32(b.Port)), b.Addr.AsSlice()...),
			})
		}
		g.conn.FlushSet(family.sets.clients)
		g.conn.FlushSet(family.sets.bound)
		if err := errors.Join(g.add(family.sets.clients, clients), g.add(family.sets.bound, bound)); err != nil {
			return fmt.Errorf("bind addresses to bridge ports: %w", err)
		}
	}
	if err := g.flush(); err != nil {
		return fmt.Errorf("bind addresses to bridge ports: %w", err)
	}
	g.bound = bindings
	return nil
}

// flush makes what was asked for, in one transaction.
func (g *Guard) flush() error {
	if err := g.socket.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	return g.conn.Flush()
}

// Close removes the table.
func (g *Guard) Close() error { return g.conn.CloseLasting() }

// makeTable makes the table as one that belongs to our socket. google/nftables
// knows no flags of a table, hence this message of our own.
func (g *Guard) makeTable() error {
	const owner = 0x2 // NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(g.table.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, owner)},
	})
	if err != nil {
		return err
	}
	// Begin and end name their subsystem in the big-endian resource ID (struct nfgenmsg).
	bracket := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	if err := g.socket.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, err = g.socket.SendMessages([]netlink.Message{
		bracket(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append([]byte{byte(g.table.Family), unix.NFNETLINK_V0, 0, 0}, attrs...),
		},
		bracket(unix.NFNL_MSG_BATCH_END),
	})
	if err != nil {
		return err
	}
	_, err = g.socket.Receive()
	return err
}
