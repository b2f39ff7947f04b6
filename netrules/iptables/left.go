package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// What follows is for netrules/nft, which has another way to set rules, and so needs no
// iptables program: rules of ours in iptables' tables are an older daemon's. Those in nf_tables
// are found and removed by netlink, those in the legacy filter found by getsockopt; to remove
// them takes its programs.

// Left returns the chains of ours that are in iptables' nat tables of a family.
func Left(ns *netns.Namespace, f netrules.Family) ([]string, error) {
	chains, err := within(ns, func() ([]string, error) { return slices.Concat(oursIn(NFT, f), oursIn(Legacy, f)), nil })
	if err != nil {
		return nil, fmt.Errorf("look for %s chains of iptables in %s: %w", f, ns.Name(), err)
	}
	return chains, nil
}

// UnhookLeft takes every jump to such a chain out.
func UnhookLeft(ctx context.Context, ns *netns.Namespace, f netrules.Family) error {
	_, err := within(ns, func() (_ struct{}, err error) {
		if len(oursIn(NFT, f)) > 0 {
			_, err = netlinkNAT{family: f}.unhook(ctx)
		}
		if err == nil && len(oursIn(Legacy, f)) > 0 {
			var t *tool
			if t, err = legacyTool(ctx, f); err == nil {
				err = t.unhookAll(ctx)
			}
		}
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("unhook %s rules of iptables in %s: %w", f, ns.Name(), err)
	}
	return nil
}

// RemoveLeft removes such chains, every jump to one, and of the tables and built-in chains
// those that were made by us, as Remove does, and returns which chains there were.
func RemoveLeft(ctx context.Context, ns *netns.Namespace, f netrules.Family) ([]string, error) {
	chains, err := within(ns, func() ([]string, error) {
		chains, err := netlinkNAT{family: f}.remove(ctx)
		if err != nil {
			return chains, err
		}
		if legacy := oursIn(Legacy, f); len(legacy) > 0 {
			t, err := legacyTool(ctx, f)
			if err != nil {
				return chains, err
			}
			removed, err := t.remove(ctx)
			return append(chains, removed.Chains...), err
		}
		return chains, nil
	})
	if err != nil {
		return chains, fmt.Errorf("remove %s rules of iptables in %s: %w", f, ns.Name(), err)
	}
	return chains, nil
}

// legacyTool finds the programs of the legacy filter.
func legacyTool(ctx context.Context, f netrules.Family) (*tool, error) {
	t, err := newTool(ctx, f, Legacy, settings{lockWait: defaultLockWait})
	if err != nil {
		name := f.Command() + suffix(Legacy)
		return nil, hint.Wrap(fmt.Errorf("rules of ours are in the packet filter %s: %w", Legacy, err),
			"install "+name+", or restart the container whose rules they are")
	}
	return t, nil
}

// unhook unhooks by netlink, in the calling thread's namespace.
func (n netlinkNAT) unhook(ctx context.Context) ([]netrules.Change, error) {
	found, err := findLeads(n.family)
	if err != nil {
		return nil, err
	}
	var changes []netrules.Change
	for chain, leads := range found.leads {
		if strings.HasPrefix(chain, netrules.ChainPrefix) {
			continue // they go with their chain
		}
		for _, l := range leads {
			changes = append(changes, netrules.Change{Family: n.family, Table: natTable, Op: netrules.Delete, Chain: chain,
				Handle: l.handle, Args: []string{"-j", l.to}})
		}
	}
	return changes, n.deleteNumbered(ctx, changes)
}

// remove removes by netlink, in the calling thread's namespace.
func (n netlinkNAT) remove(ctx context.Context) ([]string, error) {
	chains := oursIn(NFT, n.family)
	var removed Removed
	if len(chains) > 0 {
		found, err := findLeads(n.family)
		if err != nil {
			return nil, err
		}
		removed.MadeTable = len(found.marked) > 0
		if _, err := n.unhook(ctx); err != nil {
			return nil, err
		}
		// Emptied first, all of them: one may lead to another.
		var batch []netlink.Message
		for _, kind := range []int{unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELCHAIN} {
			table, chain := uint16(unix.NFTA_RULE_TABLE), uint16(unix.NFTA_RULE_CHAIN)
			if kind == unix.NFT_MSG_DELCHAIN {
				table, chain = unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME
			}
			for _, name := range chains {
				m, err := n.message(kind, 0, nfnetlink.Name(table, natTable), nfnetlink.Name(chain, name))
				if err != nil {
					return nil, err
				}
				batch = append(batch, m)
			}
		}
		if err := nfnetlink.Transact(batch); err != nil && !errors.Is(err, unix.ENOENT) { // gone since we looked
			return nil, err
		}
	}
	if err := n.whatWeMade(&removed); err != nil {
		return chains, err
	}
	if removed.MadeTable {
		return chains, n.dropTable()
	}
	return chains, nil
}

// EngineUsesNFT reports whether the engine of this host sets its rules by nftables alone: its
// backend of that name has tables of its own.
func EngineUsesNFT() bool {
	found := false
	look := func() error {
		chains, err := nftChains(netrules.IPv4)
		for _, c := range chains {
			found = found || c.table == engineTable
		}
		return err
	}
	return eachHost(look, func() bool { return found })
}
