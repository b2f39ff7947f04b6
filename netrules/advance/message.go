package advance

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftMessage is one of nftables (linux/netfilter/nf_tables.h).
type nftMessage struct {
	kind  netlink.HeaderType
	flags netlink.HeaderFlags
	data  []byte
}

// bracket begins or ends a batch, whose subsystem stands in the resource ID of its header.
func bracket(kind netlink.HeaderType) nftMessage {
	return nftMessage{kind: kind, data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}}
}

func newMessage(kind int, flags netlink.HeaderFlags, attributes ...netlink.Attribute) nftMessage {
	return nftMessage{
		kind: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), flags: flags,
		data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, marshal(attributes)...),
	}
}

func text(kind uint16, value string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(value), 0)}
}

func number(kind uint16, value uint32) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: binary.BigEndian.AppendUint32(nil, value)}
}

func nested(kind uint16, attributes ...netlink.Attribute) netlink.Attribute {
	return netlink.Attribute{Type: unix.NLA_F_NESTED | kind, Data: marshal(attributes)}
}

// marshal encodes attributes.
func marshal(attributes []netlink.Attribute) []byte {
	data, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		panic(err) // none is longer than mostElements make it
	}
	return data
}

// newTable is a table of the socket that sends it: nobody else can change or flush it, and it
// goes with the socket.
func newTable(table string) nftMessage {
	const owner = 0x2 // NFT_TABLE_F_OWNER
	return newMessage(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl,
		text(unix.NFTA_TABLE_NAME, table), number(unix.NFTA_TABLE_FLAGS, owner))
}

// newPortSet is a set of ports. id names it in the batch that makes it.
func newPortSet(table, set string, id uint32) nftMessage {
	const service = 13 // inet_service, as nft(8) prints it
	return newMessage(unix.NFT_MSG_NEWSET, netlink.Create,
		text(unix.NFTA_SET_TABLE, table), text(unix.NFTA_SET_NAME, set), number(unix.NFTA_SET_FLAGS, 0),
		number(unix.NFTA_SET_KEY_TYPE, service), number(unix.NFTA_SET_KEY_LEN, 2), number(unix.NFTA_SET_ID, id))
}

// mostElements is how many ports one message names: an attribute has 64 KiB at most.
const mostElements = 1000

// portMessages add ports to a set, or take them from it.
func portMessages(kind int, table, set string, ports []uint16) []nftMessage {
	var messages []nftMessage
	for some := range slices.Chunk(ports, mostElements) {
		elements := make([]netlink.Attribute, len(some))
		for i, port := range some {
			elements[i] = nested(unix.NFTA_LIST_ELEM, nested(unix.NFTA_SET_ELEM_KEY,
				netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: binary.BigEndian.AppendUint16(nil, port)}))
		}
		messages = append(messages, newMessage(kind, netlink.Create, text(unix.NFTA_SET_ELEM_LIST_TABLE, table),
			text(unix.NFTA_SET_ELEM_LIST_SET, set), nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, elements...)))
	}
	return messages
}

// newNATChain is a base chain of kind nat.
func newNATChain(table, chain string, hook uint32, priority int32) nftMessage {
	return newMessage(unix.NFT_MSG_NEWCHAIN, netlink.Create,
		text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, chain),
		nested(unix.NFTA_CHAIN_HOOK, number(unix.NFTA_HOOK_HOOKNUM, hook), number(unix.NFTA_HOOK_PRIORITY, uint32(priority))),
		text(unix.NFTA_CHAIN_TYPE, "nat"))
}

// newRule appends a rule to a chain.
func newRule(table, chain, comment string, exprs []expr.Any) (nftMessage, error) {
	list := make([]netlink.Attribute, len(exprs))
	for i, e := range exprs {
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return nftMessage{}, fmt.Errorf("encode a rule: %w", err)
		}
		list[i] = netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data}
	}
	return newMessage(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append,
		text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain),
		nested(unix.NFTA_RULE_EXPRESSIONS, list...),
		netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: userdata.AppendString(nil, userdata.TypeComment, comment)}), nil
}
