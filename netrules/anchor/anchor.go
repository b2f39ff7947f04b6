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
	"math/bits"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/netns"
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

// ownedByAProcess reports whether a table has NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h.
// google/nftables reads the big-endian number in this machine's order of bytes; should it not
// do so any more, the other order has no flag of that value.
func ownedByAProcess(t *nftables.Table) bool {
	const owner = 0x2
	return (t.Flags|bits.ReverseBytes32(t.Flags))&owner != 0
}

// Set puts the anchor into ns, unless it is there, and reports whether it had to. It may be
// called again and again: whoever flushes a namespace's whole ruleset takes the anchor along.
func Set(ns *netns.Namespace) (changed bool, err error) {
	err = ns.Do(func() error {
		there, err := stands()
		if there || err != nil {
			return err
		}
		changed = true
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Name: Table, Family: nftables.TableFamilyINet})
		chain := conn.AddChain(&nftables.Chain{Name: chainName, Table: table})
		conn.FlushChain(chain)
		// Loading the state of a connection is all it takes: the expression holds
		// connection tracking as long as the rule exists.
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
		}})
		return conn.Flush()
	})
	return changed && err == nil, explain("set", ns, err)
}

// Drop takes the anchor out of ns, nil being the process's own. That there is none is no error; what somebody else has in its
// place is ErrForeign.
func Drop(ns *netns.Namespace) error {
	err := ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return err
		}
		for _, t := range tables {
			switch {
			case t.Name != Table:
			case ownedByAProcess(t):
				return ErrForeign
			default:
				conn.DelTable(t)
			}
		}
		if err := conn.Flush(); !errors.Is(err, unix.ENOENT) { // gone since we looked
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
