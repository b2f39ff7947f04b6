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
// Everything else passes untouched, from any sender.
//
// The table is an owned one: old bindings that outlived us would cut off a container
// that is given an address again.
package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/owned"
)

// transactionSize is room for more bindings than a host has containers: a
// transaction is one datagram.
const transactionSize = 8 << 20

// Binding is a client's address and the one bridge port that it may come from.
type Binding struct {
	Port  int // the interface index of the bridge port
	Addr  netip.Addr
	Owner string // a comment, for who reads the table: at most maxOwner bytes count
}

// maxOwner is what fits into an element's comment (NFT_USERDATA_MAXLEN, less its
// head and NUL).
const maxOwner = 250

// Guard is a table in the kernel. Its methods are for one goroutine at a time.
type Guard struct {
	table  *owned.Table
	v4, v6 sets
	bound  []Binding
}

// sets are those of one address family.
type sets struct{ ours, clients, bound *nftables.Set }

// Install makes the table in a namespace, nil being the process's own, and guards
// connections to ours with it. Bindings are bound from its first moment on; of other
// addresses no connection to ours gets in over a bridge. It takes CAP_NET_ADMIN.
//
// It fails with EEXIST or EPERM when there is a table of that name.
func Install(ns *netns.Namespace, name string, ours []netip.Addr, bindings []Binding) (*Guard, error) {
	table, err := owned.Make(ns, nftables.TableFamilyBridge, name, transactionSize)
	g := &Guard{table: table}
	if err == nil {
		if err = g.fill(ours, sorted(bindings)); err != nil {
			_ = table.Close()
		}
	}
	if err != nil {
		err = fmt.Errorf("make table bridge %s: %w", name, err)
		if errors.Is(err, unix.EEXIST) {
			err = hint.Wrap(err, "it is no running daemon's: nft delete table bridge "+name)
		}
		return nil, err
	}
	return g, nil
}

// fill makes the sets, the chain and its rules, in one transaction.
func (g *Guard) fill(ours []netip.Addr, bindings []Binding) error {
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
	if err := g.bind(bindings); err != nil {
		return err
	}
	// Before br_netfilter (priority 0), which may hand a frame to the rules of IP.
	chain := g.table.Conn.AddChain(&nftables.Chain{
		Name: chainName, Table: g.table.Table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-300),
	})
	for _, r := range rules(g.v4, g.v6) {
		r.Table, r.Chain = g.table.Table, chain
		g.table.Conn.AddRule(r)
	}
	g.bound = bindings
	return g.table.Flush()
}

func (g *Guard) addSets(suffix string, addr nftables.SetDatatype) (sets, error) {
	s := sets{
		ours:    &nftables.Set{Table: g.table.Table, Name: "ours" + suffix, KeyType: addr},
		clients: &nftables.Set{Table: g.table.Table, Name: "clients" + suffix, KeyType: addr},
		bound: &nftables.Set{
			Table: g.table.Table, Name: "bound" + suffix, Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, addr),
		},
	}
	for _, set := range []*nftables.Set{s.ours, s.clients, s.bound} {
		if err := g.table.Conn.AddSet(set, nil); err != nil {
			return s, err
		}
	}
	return s, nil
}

// add adds elements, some at a time: a netlink attribute holds 64 KiB.
func (g *Guard) add(set *nftables.Set, elements []nftables.SetElement) error {
	const some = 500
	for chunk := range slices.Chunk(elements, some) {
		if err := g.table.Conn.SetAddElements(set, chunk); err != nil {
			return err
		}
	}
	return nil
}

// Bind replaces all bindings, in one transaction. An address that is listed for
// two ports may come from either. After an error it is not known what is bound:
// Close the Guard and install another.
func (g *Guard) Bind(bindings []Binding) error {
	bindings = sorted(bindings)
	if slices.Equal(bindings, g.bound) {
		return nil
	}
	for _, s := range []sets{g.v4, g.v6} {
		g.table.Conn.FlushSet(s.clients)
		g.table.Conn.FlushSet(s.bound)
	}
	err := g.bind(bindings)
	if err == nil {
		err = g.table.Flush()
	}
	if err != nil {
		return fmt.Errorf("bind addresses to bridge ports: %w", err)
	}
	g.bound = bindings
	return nil
}

// bind asks for the elements of bindings, which are sorted.
func (g *Guard) bind(bindings []Binding) error {
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
				Key:     append(binary.NativeEndian.AppendUint32(nil, uint32(b.Port)), b.Addr.AsSlice()...),
				Comment: b.Owner[:min(len(b.Owner), maxOwner)],
			})
		}
		if err := errors.Join(g.add(family.sets.clients, clients), g.add(family.sets.bound, bound)); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the table.
func (g *Guard) Close() error { return g.table.Close() }
