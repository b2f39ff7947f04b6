package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// batch is the messages of one transaction.
type batch struct{ messages []netlink.Message }

// add makes changes to a table as it was found, and the table if that is missing or is to be
// replaced.
func (b *batch) add(found *table, changes []netrules.Change) error {
	if found.there && found.broken {
		if err := b.dropTable(found.family); err != nil {
			return err
		}
	}
	if !found.there || found.broken {
		if err := b.message(unix.NFT_MSG_NEWTABLE, found.family, netlink.Create, nfnetlink.Name(unix.NFTA_TABLE_NAME, Table)); err != nil {
			return err
		}
	}
	return b.change(found, changes)
}

// change makes changes to a table that is there.
func (b *batch) change(found *table, changes []netrules.Change) error {
	planned := found.planned()
	for _, c := range changes {
		if c.Op == netrules.Insert {
			if _, there := planned.Chain(c.Chain); !there {
				if err := b.hook(c.Family, c.Chain); err != nil {
					return err
				}
			}
		}
		if err := b.one(c); err != nil {
			return fmt.Errorf("%s: %w", netrules.RuleText(c.Chain, c.Args), err)
		}
	}
	return nil
}

func (b *batch) one(c netrules.Change) error {
	in := []netlink.Attribute{nfnetlink.Name(unix.NFTA_RULE_TABLE, Table), nfnetlink.Name(unix.NFTA_RULE_CHAIN, c.Chain)}
	switch c.Op {
	case netrules.NewChain:
		return b.message(unix.NFT_MSG_NEWCHAIN, c.Family, netlink.Create,
			nfnetlink.Name(unix.NFTA_CHAIN_TABLE, Table), nfnetlink.Name(unix.NFTA_CHAIN_NAME, c.Chain))
	case netrules.Flush: // all rules of the chain, for none is named
		return b.message(unix.NFT_MSG_DELRULE, c.Family, 0, in...)
	case netrules.Delete:
		return b.message(unix.NFT_MSG_DELRULE, c.Family, 0,
			append(in, netlink.Attribute{Type: unix.NFTA_RULE_HANDLE, Data: binary.BigEndian.AppendUint64(nil, c.Handle)})...)
	case netrules.Append, netrules.Insert:
		rule, err := encodeRule(c.Family, c.Args)
		if err != nil {
			return err
		}
		flags := netlink.Create
		if c.Op == netrules.Append {
			flags |= netlink.Append
		}
		return b.message(unix.NFT_MSG_NEWRULE, c.Family, flags, append(in, rule...)...)
	}
	return fmt.Errorf("no change of a table of ours: %s", c.Op) // Remove deletes it whole
}

// hook makes the chain that the kernel calls.
func (b *batch) hook(f netrules.Family, name string) error {
	at, known := hookOf[name]
	if !known {
		return fmt.Errorf("no hook of ours: %s", name)
	}
	where := int32(priority)
	hook, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_HOOK_HOOKNUM, Data: binary.BigEndian.AppendUint32(nil, at)},
		{Type: unix.NFTA_HOOK_PRIORITY, Data: binary.BigEndian.AppendUint32(nil, uint32(where))},
	})
	if err != nil {
		return err
	}
	return b.message(unix.NFT_MSG_NEWCHAIN, f, netlink.Create,
		nfnetlink.Name(unix.NFTA_CHAIN_TABLE, Table), nfnetlink.Name(unix.NFTA_CHAIN_NAME, name),
		netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_CHAIN_HOOK, Data: hook},
		netlink.Attribute{Type: unix.NFTA_CHAIN_POLICY, Data: binary.BigEndian.AppendUint32(nil, uint32(nftables.ChainPolicyAccept))},
		nfnetlink.Name(unix.NFTA_CHAIN_TYPE, "nat"))
}

// dropTable deletes a table with all that is in it.
func (b *batch) dropTable(f netrules.Family) error {
	return b.message(unix.NFT_MSG_DELTABLE, f, 0, nfnetlink.Name(unix.NFTA_TABLE_NAME, Table))
}

func (b *batch) message(kind int, f netrules.Family, flags netlink.HeaderFlags, attrs ...netlink.Attribute) error {
	m, err := nfnetlink.Message(kind, nfFamily(f), flags, attrs...)
	if err == nil {
		b.messages = append(b.messages, m)
	}
	return err
}

// encodeRule is a rule's expressions and comment as attributes.
func encodeRule(f netrules.Family, args []string) ([]netlink.Attribute, error) {
	exprs, comment, err := encode(f, args)
	if err != nil {
		return nil, err
	}
	list := make([]netlink.Attribute, len(exprs))
	for i, e := range exprs {
		data, err := expr.Marshal(nfFamily(f), e)
		if err != nil {
			return nil, err
		}
		list[i] = netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data}
	}
	data, err := netlink.MarshalAttributes(list)
	if err != nil {
		return nil, err
	}
	attrs := []netlink.Attribute{{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: data}}
	if comment != "" {
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: commentData(comment)})
	}
	return attrs, nil
}
