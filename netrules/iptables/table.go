package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// natTable is the one table we have chains in.
const natTable = "nat"

// DropTable deletes the nat table of a family if it holds nothing but built-in
// chains that are empty and accept; anything else is left as it is. Call it only
// where Remove reported MadeTable, and only when no connection is left that went
// through our rules: with the built-in chains the kernel's last hook for
// translation goes.
//
// The kernel keeps a legacy table as long as the namespace, so there DropTable
// does nothing.
func (r *Rules) DropTable(_ context.Context, ns *netns.Namespace, f netrules.Family) error {
	t, err := r.tool(f)
	if err != nil {
		return err
	}
	if t.variant == Legacy {
		return nil
	}
	_, err = within(ns, func() (struct{}, error) { return struct{}{}, t.dropTable() })
	if err != nil {
		return fmt.Errorf("drop %s table %s in %s: %w", f, natTable, ns.Name(), err)
	}
	return nil
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
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftFamily(f))
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(table *nftables.Table) bool { return table.Name == natTable }), nil
}

func nftFamily(f netrules.Family) nftables.TableFamily {
	if f == netrules.IPv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// dropTable runs in the namespace. Whether the chains hold anything the kernel says.
func (t *tool) dropTable() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	all, err := conn.ListChainsOfTableFamily(nftFamily(t.family))
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	var chains []string
	for _, c := range all {
		if c.Table.Name != natTable {
			continue
		}
		if c.Hooknum == nil || c.Policy != nil && *c.Policy != nftables.ChainPolicyAccept {
			return t.dropMadeChains() // somebody uses it by now
		}
		chains = append(chains, c.Name)
	}
	err = t.deleteEmpty(chains)
	switch {
	case errors.Is(err, unix.EBUSY): // in use by somebody
		return t.dropMadeChains()
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
func (t *tool) deleteEmpty(chains []string) error {
	var batch []netlink.Message
	for _, chain := range chains {
		m, err := t.message(unix.NFT_MSG_DELCHAIN, nfnetlink.Nonrec,
			netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: []byte(natTable + "\x00")},
			netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: []byte(chain + "\x00")})
		if err != nil {
			return err
		}
		batch = append(batch, m)
	}
	m, err := t.message(unix.NFT_MSG_DELTABLE, nfnetlink.Nonrec,
		netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: []byte(natTable + "\x00")})
	if err != nil {
		return err
	}
	return nfnetlink.Transact(append(batch, m))
}
