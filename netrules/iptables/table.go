package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// natTable is the one table we have chains in.
const natTable = "nat"

// netlinkNAT is the nat table of a family in the packet filter nft, as netlink lists and changes it:
// that takes no program. Its methods run in the calling thread's namespace.
type netlinkNAT struct {
	family netrules.Family
	around time.Duration              // tool.around; 0 is aroundTimeout
	before func(program string) error // tool.before
}

// legacyTable reports whether the legacy nat table of a family exists in the
// calling thread's namespace.
func legacyTable(f netrules.Family) (bool, error) {
	// thread-self, because self is the process's first thread, in its own namespace.
	path := "/proc/thread-self/net/ip_tables_names"
	if f == netrules.IPv6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the kernel module is not even loaded
	}
	return slices.Contains(strings.Fields(string(names)), natTable), err
}

// nftTable reports whether the nft nat table of a family exists in the calling
// thread's namespace.
func nftTable(f netrules.Family) (bool, error) {
	_, err := nfnetlink.Ask(unix.NFT_MSG_GETTABLE, nfFamily(f), nfnetlink.Name(unix.NFTA_TABLE_NAME, natTable))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables table %s: %w", natTable, err)
	}
	return true, nil
}

// nfFamily is a family as netlink has it.
func nfFamily(f netrules.Family) byte {
	if f == netrules.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// nftChain is a chain of nftables'.
type nftChain struct {
	table, name string
	hooked      bool // the kernel calls it
	accepts     bool // what comes to its end
}

// nftChains lists the chains of all tables of a family in the calling thread's namespace.
func nftChains(f netrules.Family) ([]nftChain, error) {
	var chains []nftChain
	left := nfnetlink.Budget{Messages: maxRules, Bytes: maxOutput, Each: nfnetlink.EachAttributes(func(attrs []netlink.Attribute) {
		hook := nfnetlink.Data(attrs, unix.NFTA_CHAIN_HOOK)
		policy := nfnetlink.Data(attrs, unix.NFTA_CHAIN_POLICY)
		chains = append(chains, nftChain{
			table:  nfnetlink.Text(nfnetlink.Data(attrs, unix.NFTA_CHAIN_TABLE)),
			name:   nfnetlink.Text(nfnetlink.Data(attrs, unix.NFTA_CHAIN_NAME)),
			hooked: hook != nil, accepts: policy == nil || bytes.Equal(policy, acceptPolicy()),
		})
	})}
	if err := left.Dump(unix.NFT_MSG_GETCHAIN, nfFamily(f), nil); err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	if left.Spent() {
		return nil, tooMuch(fmt.Errorf("there are more than %d chains", maxRules))
	}
	return chains, nil
}

// dropTable runs in the namespace. Whether the chains hold anything the kernel says.
func (n netlinkNAT) dropTable() error {
	all, err := nftChains(n.family)
	if err != nil {
		return err
	}
	var chains []string
	for _, c := range all {
		if c.table != natTable {
			continue
		}
		if !c.hooked || !c.accepts {
			return n.dropMadeChains() // somebody uses it by now
		}
		chains = append(chains, c.name)
	}
	err = n.deleteEmpty(chains)
	switch {
	case errors.Is(err, unix.EBUSY): // in use by somebody
		return n.dropMadeChains()
	case errors.Is(err, unix.ENOENT): // gone since we looked
		return nil
	}
	return err
}

// deleteEmpty deletes the table's chains and the table, in one transaction that
// fails with EBUSY if there is anything in them or in it besides.
//
// google/nftables deletes a table with all it holds by then, so a rule that
// somebody, such as Docker, adds after we looked would be lost. It cannot be told
// otherwise, hence these messages of our own.
func (n netlinkNAT) deleteEmpty(chains []string) error {
	var batch []netlink.Message
	for _, chain := range chains {
		m, err := n.message(unix.NFT_MSG_DELCHAIN, nfnetlink.Nonrec,
			netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: []byte(natTable + "\x00")},
			netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: []byte(chain + "\x00")})
		if err != nil {
			return err
		}
		batch = append(batch, m)
	}
	m, err := n.message(unix.NFT_MSG_DELTABLE, nfnetlink.Nonrec,
		netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: []byte(natTable + "\x00")})
	if err != nil {
		return err
	}
	return nfnetlink.Transact(append(batch, m))
}
