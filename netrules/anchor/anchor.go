// Package anchor keeps connection tracking on in a network namespace.
//
// The kernel tracks, and so translates, a namespace's connections only while some
// rule there asks for it. In a container our REDIRECT rules are often the only
// ones: when somebody flushes the nat table, every connection that came through
// them is reset at its next packet, long before the rules are repaired. The anchor
// is a rule that asks and does nothing else, in an nftables table of our own that
// no iptables command sees, in a chain without a hook, so that no packet ever
// passes it.
//
// It is a comfort: where the kernel has no nftables, everything works but that.
package anchor

import (
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// Table is the name of our table, of the family inet.
const Table = "ambassadord"

// chainName is the one chain of the table.
const chainName = "keep-tracking"

// ErrUnsupported says that this kernel has no nftables, or none that we may use.
var ErrUnsupported = errors.New("no nftables here")

// ErrForeign says that a table of the anchor's name belongs to another process: nobody else may
// change it, and it goes with that process. Ours belongs to none.
var ErrForeign = hint.Wrap(errors.New("the table is another process's"),
	"nothing of ours is in it; see whose it is with nft list table inet "+Table+" in that network namespace, and have it named otherwise")

// Set puts the anchor into ns, unless it is there, and reports whether it had to. It may be
// called again and again: a flush of a namespace's whole ruleset takes the anchor along.
func Set(ns *netns.Namespace) (changed bool, err error) {
	err = ns.Do(func() error {
		there, err := stands()
		if there || err != nil {
			return err
		}
		changed = true
		batch, err := tracking()
		if err != nil {
			return err
		}
		return nfnetlink.Transact(batch)
	})
	return changed && err == nil, explain("set", ns, err)
}

// tracking makes the table and its chain, and has nothing in there but the rule: loading the
// state of a connection is all it takes, since the expression holds connection tracking as long
// as the rule exists.
func tracking() ([]netlink.Message, error) {
	load, err := expr.Marshal(unix.NFPROTO_INET, &expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1})
	if err != nil {
		return nil, err
	}
	list, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: load}})
	if err != nil {
		return nil, err
	}
	in := []netlink.Attribute{nfnetlink.Name(unix.NFTA_RULE_TABLE, Table), nfnetlink.Name(unix.NFTA_RULE_CHAIN, chainName)}
	var batch []netlink.Message
	for _, m := range []struct {
		kind  int
		flags netlink.HeaderFlags
		attrs []netlink.Attribute
	}{
		{unix.NFT_MSG_NEWTABLE, netlink.Create, []netlink.Attribute{nfnetlink.Name(unix.NFTA_TABLE_NAME, Table)}},
		{unix.NFT_MSG_NEWCHAIN, netlink.Create, []netlink.Attribute{
			nfnetlink.Name(unix.NFTA_CHAIN_TABLE, Table), nfnetlink.Name(unix.NFTA_CHAIN_NAME, chainName),
		}},
		{unix.NFT_MSG_DELRULE, 0, in}, // all of the chain, for none is named
		{unix.NFT_MSG_NEWRULE, netlink.Create | netlink.Append,
			append(in, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: list})},
	} {
		message, err := nfnetlink.Message(m.kind, unix.NFPROTO_INET, m.flags, m.attrs...)
		if err != nil {
			return nil, err
		}
		batch = append(batch, message)
	}
	return batch, nil
}

// Drop takes the anchor out of ns, nil being the process's own. That there is none is no error; what somebody else has in its
// place is ErrForeign.
func Drop(ns *netns.Namespace) error {
	err := ns.Do(func() error {
		const owner = 0x2 // NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h
		name := nfnetlink.Name(unix.NFTA_TABLE_NAME, Table)
		table, err := nfnetlink.Ask(unix.NFT_MSG_GETTABLE, unix.NFPROTO_INET, name)
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return err
		case nfnetlink.Uint32(table, unix.NFTA_TABLE_FLAGS)&owner != 0:
			return ErrForeign
		}
		drop, err := nfnetlink.Message(unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, 0, name)
		if err != nil {
			return err
		}
		if err := nfnetlink.Transact([]netlink.Message{drop}); !errors.Is(err, unix.ENOENT) { // gone since we looked
			return err
		}
		return nil
	})
	return explain("drop", ns, err)
}

func explain(operation string, ns *netns.Namespace, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT),
		errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("%s the anchor in %s: %w", operation, ns.Name(), err)
}
