package iptables

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

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
	// What belongs to one table can be asked for by its name; chains cannot.
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
