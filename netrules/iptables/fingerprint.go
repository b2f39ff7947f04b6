package iptables

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
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
		return nfnetlink.Generation()
	})
	if err != nil {
		return 0, fmt.Errorf("fingerprint %s rules in %s: %w", f, ns.Name(), err)
	}
	return value, nil
}

// Generation returns a number that is another one whenever any nftables rule of a namespace
// may have changed, whatever made it; a nil namespace is the process's own. A kernel without
// nftables has none.
func Generation(ns *netns.Namespace) (uint64, error) {
	value, err := within(ns, nfnetlink.Generation)
	if err != nil {
		return 0, fmt.Errorf("generation of the rules in %s: %w", ns.Name(), err)
	}
	return value, nil
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
