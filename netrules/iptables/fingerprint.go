package iptables

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Fingerprint returns a number that is another one whenever the rules of a family
// in a namespace may have changed; a nil namespace is the process's own. It costs
// a few system calls and no process, so it can be asked often. It says nothing of
// what changed, and it may change although our rules did not. Values of one Rules,
// namespace and family can be compared with each other alone.
//
// Take it before the Read or Apply it stands for: then a change that comes between
// the two shows the next time. What Apply changes shows as well.
//
// The nft variant counts its transactions in each namespace (NFT_MSG_GETGEN), for
// all families and tables together. The legacy variant counts nothing; there it is
// a hash of the nat table, counters left out. Like Read, it makes no table.
// CAP_NET_ADMIN is enough for either.
func (r *Rules) Fingerprint(ctx context.Context, ns *netns.Namespace, f netrules.Family) (uint64, error) {
	t, err := r.tool(f)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	value, err := within(ns, func() (uint64, error) {
		if t.variant == Legacy {
			return legacyFingerprint(t.family)
		}
		return nftGeneration()
	})
	if err != nil {
		return 0, fmt.Errorf("fingerprint %s rules in %s: %w", f, where(ns), err)
	}
	return value, nil
}

// Generation returns a number that is another one whenever any nftables rule of a namespace
// may have changed, whatever made it; a nil namespace is the process's own. A kernel without
// nftables has none.
func Generation(ns *netns.Namespace) (uint64, error) {
	value, err := within(ns, nftGeneration)
	if err != nil {
		return 0, fmt.Errorf("generation of the rules in %s: %w", where(ns), err)
	}
	return value, nil
}

// nftGeneration returns the ID of the ruleset's generation in the calling thread's
// namespace: the kernel sets another one with each transaction.
func nftGeneration() (uint64, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer func() { _ = conn.Close() }()
	// The kernel answers at once; this is for the day it does not.
	if err := conn.SetDeadline(time.Now().Add(execTimeout)); err != nil {
		return 0, fmt.Errorf("bound netlink: %w", err)
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN,
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return 0, fmt.Errorf("ask nftables for its generation: %w", err)
	}
	const header = 4
	for _, answer := range answers {
		if len(answer.Data) < header {
			continue
		}
		attrs, err := netlink.UnmarshalAttributes(answer.Data[header:])
		if err != nil {
			return 0, fmt.Errorf("read nftables' generation: %w", err)
		}
		for _, attr := range attrs {
			if attr.Type == unix.NFTA_GEN_ID {
				// In network byte order; for telling values apart any order does.
				var id uint64
				for _, b := range attr.Data {
					id = id<<8 | uint64(b)
				}
				return id, nil
			}
		}
	}
	return 0, errors.New("nftables did not say its generation")
}

// legacyFingerprint hashes the nat table of the calling thread's namespace. A
// table that is not there has a value of its own.
func legacyFingerprint(f netrules.Family) (uint64, error) {
	hash := fnv.New64a()
	exists, err := legacyTable(f)
	if err != nil || !exists {
		return hash.Sum64(), err
	}
	entries, err := legacyEntries(f)
	if err != nil {
		return 0, err
	}
	_, _ = hash.Write(entries)
	return hash.Sum64(), nil
}
