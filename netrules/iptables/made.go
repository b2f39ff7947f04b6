package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// The nft variant makes a table, and a built-in chain in it, when the first rule comes, and
// takes neither away. That they were made by us stands in a rule of our chain
// (netrules.TableMarker), which goes when somebody flushes that. So what is not there we make
// ourselves, with a comment: that is part of the table, and of the chain, and goes with
// nothing else. A kernel before 5.10 keeps no such comment; there the rule has to do.

// builtinPriority is that of the built-in chains of the nat table that we have jumps in, as
// iptables makes them (NF_IP_PRI_NAT_DST).
const builtinPriority = -100

// hooks are the hooks of these chains.
var hooks = map[string]uint32{"PREROUTING": unix.NF_INET_PRE_ROUTING, "OUTPUT": unix.NF_INET_LOCAL_OUT}

// makeMissing makes what changes will need of the table and of its built-in chains, if that
// is not there yet, and reports whether it had to.
func (n netlinkNAT) makeMissing(changes []netrules.Change) (made bool, err error) {
	var missing []string
	for _, c := range changes {
		if _, builtin := hooks[c.Chain]; builtin && c.Op == netrules.Insert {
			missing = append(missing, c.Chain)
		}
	}
	if len(missing) == 0 {
		return false, nil
	}
	chains, err := chainsIn(NFT, n.family)
	if err != nil {
		return false, err
	}
	there := map[string]bool{}
	for _, name := range chains {
		there[name] = true
	}
	table, err := nftTable(n.family)
	if err != nil {
		return false, err
	}
	for _, name := range missing {
		if there[name] {
			continue
		}
		err := n.makeMarked(name, !table)
		switch {
		case errors.Is(err, unix.EEXIST): // somebody else was first
		case err != nil:
			return made, fmt.Errorf("make chain %s of table %s: %w", name, natTable, err)
		default:
			made, table, there[name] = true, true, true
		}
	}
	return made, nil
}

// chainMarker is the comment on a built-in chain that we have made.
const chainMarker = "ambassadord: this chain was made by us"

// comment is a comment on what we have made, as nft writes it.
func comment(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// marked reports whether the mark of our tables is in the data of a table or of a rule.
func marked(data []byte) bool { return bytes.Contains(data, []byte(netrules.TableMarker)) }

// makeMarked makes a built-in chain, and its table if that is missing, in one transaction.
func (n netlinkNAT) makeMarked(chain string, table bool) error {
	var batch []netlink.Message
	if table {
		m, err := n.message(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl,
			netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: []byte(natTable + "\x00")},
			netlink.Attribute{Type: nfnetlink.TableUserdata, Data: comment(netrules.TableMarker)})
		if err != nil {
			return err
		}
		batch = append(batch, m)
	}
	priority := int32(builtinPriority)
	hook, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_HOOK_HOOKNUM, Data: binary.BigEndian.AppendUint32(nil, hooks[chain])},
		{Type: unix.NFTA_HOOK_PRIORITY, Data: binary.BigEndian.AppendUint32(nil, uint32(priority))},
	})
	if err != nil {
		return err
	}
	m, err := n.message(unix.NFT_MSG_NEWCHAIN, netlink.Create|netlink.Excl,
		netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: []byte(natTable + "\x00")},
		netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: []byte(chain + "\x00")},
		netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_CHAIN_HOOK, Data: hook},
		netlink.Attribute{Type: unix.NFTA_CHAIN_POLICY, Data: acceptPolicy()},
		netlink.Attribute{Type: unix.NFTA_CHAIN_TYPE, Data: []byte("nat\x00")},
		netlink.Attribute{Type: nfnetlink.ChainUserdata, Data: comment(chainMarker)})
	if err != nil {
		return err
	}
	return nfnetlink.Transact(append(batch, m))
}

// whatWeMade says of a table of the nft variant that we have made it, also where no rule of
// ours is left to tell; of somebody else's it drops the chains that we have made.
func (n netlinkNAT) whatWeMade(removed *Removed) error {
	made, err := madeTable(n.family)
	if err != nil {
		return err
	}
	if removed.MadeTable = removed.MadeTable || made; removed.MadeTable {
		return nil
	}
	return n.dropMadeChains()
}

// acceptPolicy is the policy of a built-in chain of the nat table, as netlink has it.
func acceptPolicy() []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(nftables.ChainPolicyAccept))
}

// madeTable reports whether the table says that we have made it.
func madeTable(f netrules.Family) (bool, error) {
	made := false
	err := ask(f, unix.NFT_MSG_GETTABLE, func(attrs []netlink.Attribute) {
		if nfnetlink.Text(nfnetlink.Data(attrs, unix.NFTA_TABLE_NAME)) == natTable {
			made = marked(nfnetlink.Data(attrs, nfnetlink.TableUserdata))
		}
	})
	return made, err
}

// dropMadeChains deletes the built-in chains that say that we have made them, in a table that
// is somebody else's. Those that hold a rule by now the kernel keeps, and we one that has
// another policy by now.
func (n netlinkNAT) dropMadeChains() error {
	var chains []string
	err := ask(n.family, unix.NFT_MSG_GETCHAIN, func(attrs []netlink.Attribute) {
		name := nfnetlink.Text(nfnetlink.Data(attrs, unix.NFTA_CHAIN_NAME))
		_, builtin := hooks[name]
		policy := nfnetlink.Data(attrs, unix.NFTA_CHAIN_POLICY)
		if builtin && nfnetlink.Text(nfnetlink.Data(attrs, unix.NFTA_CHAIN_TABLE)) == natTable &&
			bytes.Equal(policy, acceptPolicy()) && bytes.Contains(nfnetlink.Data(attrs, nfnetlink.ChainUserdata), []byte(chainMarker)) {
			chains = append(chains, name)
		}
	})
	for _, name := range chains {
		m, msgErr := n.message(unix.NFT_MSG_DELCHAIN, nfnetlink.Nonrec,
			netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: []byte(natTable + "\x00")},
			netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: []byte(name + "\x00")})
		if msgErr == nil {
			msgErr = nfnetlink.Transact([]netlink.Message{m})
		}
		if !errors.Is(msgErr, unix.EBUSY) && !errors.Is(msgErr, unix.ENOENT) {
			err = errors.Join(err, msgErr)
		}
	}
	return err
}

// undoMade takes away what makeMissing has made, as far as nothing is in there.
func (n netlinkNAT) undoMade() error {
	made, err := madeTable(n.family)
	switch {
	case err != nil:
		return err
	case made:
		return n.dropTable()
	}
	return n.dropMadeChains()
}

// message is one of nftables for the family of n.
func (n netlinkNAT) message(kind int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) (netlink.Message, error) {
	return nfnetlink.Message(kind, nfFamily(n.family), flags, attrs...)
}

// ask has nftables list all of a kind in the calling thread's namespace.
func ask(f netrules.Family, kind uint16, each func([]netlink.Attribute)) error {
	left := nfnetlink.Budget{Messages: maxRules, Bytes: maxOutput, Each: nfnetlink.EachAttributes(each)}
	return left.Dump(kind, nfFamily(f), nil)
}
