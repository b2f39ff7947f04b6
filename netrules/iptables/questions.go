package iptables

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

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

// Chains returns the names of our chains in a namespace. It costs a few system
// calls and no process, so it can be asked of all namespaces of a host.
func (r *Rules) Chains(ns *netns.Namespace, f netrules.Family) ([]string, error) {
	t, err := r.tool(f)
	if err != nil {
		return nil, err
	}
	chains, err := within(ns, func() ([]string, error) { return chainsIn(t.variant, f) })
	if err != nil {
		return nil, fmt.Errorf("list %s chains in %s: %w", f, ns.Name(), err)
	}
	return ours(chains), nil
}

// Elsewhere is Chains of the packet filter that is not used: an earlier daemon left
// them when the host used that one. Apply and Remove take them away.
func (r *Rules) Elsewhere(ns *netns.Namespace, f netrules.Family) ([]string, error) {
	t, err := r.tool(f)
	if err != nil {
		return nil, err
	}
	return within(ns, func() ([]string, error) { return oursIn(other(t.variant), f), nil })
}

// oursIn returns our chains in a packet filter of the calling thread's namespace.
// One that cannot be asked, because the kernel lacks it, has none.
func oursIn(v Variant, f netrules.Family) []string {
	chains, err := chainsIn(v, f)
	if err != nil {
		return nil
	}
	return ours(chains)
}

func ours(chains []string) []string {
	return slices.DeleteFunc(chains, func(name string) bool { return !strings.HasPrefix(name, netrules.ChainPrefix) })
}

// chainsIn lists the chains of the nat table in a packet filter of the calling
// thread's namespace. It makes nothing that was not there.
func chainsIn(v Variant, f netrules.Family) ([]string, error) {
	if v == Legacy {
		exists, err := legacyTable(f)
		if err != nil || !exists {
			return nil, err
		}
		entries, err := legacyEntries(f)
		if err != nil {
			return nil, err
		}
		return chainNames(entries, layoutOf(f))
	}
	all, err := nftChains(f)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range all {
		if c.table == natTable {
			names = append(names, c.name)
		}
	}
	return names, nil
}

const (
	// manyRules is from how many rules, chains and sets on a namespace is heavy: iptables
	// lists 30,000 in half a second of processor time, and 1,000 no slower than it starts.
	manyRules = 1000
	// manyBytes is likewise how long what describes them is.
	manyBytes = 1 << 20
)

// Heavy reports whether it takes long to read the rules of a namespace, which whoever has
// NET_ADMIN in there decides; a nil namespace is the process's own. To ask costs a few
// system calls and no process, however many rules there are: nobody counts beyond what is
// many.
func (r *Rules) Heavy(ns *netns.Namespace) (bool, error) {
	heavy, err := within(ns, func() (bool, error) {
		for _, t := range []*tool{r.v4, r.v6} {
			if t == nil {
				continue
			}
			heavy, err := t.heavy()
			if heavy || err != nil {
				return heavy, err
			}
		}
		return false, nil
	})
	if err != nil {
		return false, fmt.Errorf("count the rules in %s: %w", ns.Name(), err)
	}
	return heavy, nil
}

// heavy is asked in the namespace.
func (t *tool) heavy() (bool, error) {
	if t.variant == Legacy {
		exists, err := legacyTable(t.family)
		if err != nil || !exists {
			return false, err
		}
		info, err := legacyInfo(t.family)
		return info.NumEntries > manyRules || info.Size > manyBytes, err
	}
	left := nfnetlink.Budget{Messages: manyRules, Bytes: manyBytes}
	// Rules and sets can be asked for by the name of their table; chains cannot.
	table := nfnetlink.NameAttribute(unix.NFTA_RULE_TABLE, natTable)
	for _, asked := range []struct {
		kind uint16
		what []byte
	}{{unix.NFT_MSG_GETRULE, table}, {unix.NFT_MSG_GETCHAIN, nil}, {unix.NFT_MSG_GETSET, table}} {
		if err := left.Dump(asked.kind, nfFamily(t.family), asked.what); err != nil {
			return false, err
		}
	}
	return left.Spent(), nil
}

// legacyInfo asks for the size of the nat table of the calling thread's namespace, which
// must exist, or the kernel makes it.
func legacyInfo(f netrules.Family) (info tableInfo, err error) {
	fd, level, err := legacySocket(f)
	if err != nil {
		return info, err
	}
	defer func() { _ = unix.Close(fd) }()
	return infoAt(fd, level)
}
