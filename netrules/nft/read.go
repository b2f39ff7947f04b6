package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

const (
	// maxRules and maxBytes bound what is read of a table. A process with NET_ADMIN in a
	// namespace may put any number of rules there.
	maxRules = 100_000
	maxBytes = 64 << 20
	// manyRules and manyBytes are from how many rules on a namespace is heavy: those of a
	// container's own declarations, at most 1,024 for each family, are not.
	manyRules = 10_000
	manyBytes = 16 << 20
	// maxChains is how many chains are read: there is one of ours, or an old one beside it, and
	// those at the hooks.
	maxChains = 12
)

// priority is that of our chains at a hook: right before where others translate destinations
// (NF_IP_PRI_NAT_DST, -100). Of two that are equal the kernel asks the younger first, and a port
// that Docker publishes is not to go before ours because Docker was started again.
const priority = -101

// hookOf are the hooks of the chains that lead to ours, by the names that iptables gives them.
var hookOf = map[string]uint32{"PREROUTING": unix.NF_INET_PRE_ROUTING, "OUTPUT": unix.NF_INET_LOCAL_OUT}

// table is our table of one family as it was found.
type table struct {
	family netrules.Family
	there  bool
	// broken says that it is not as we make it, beyond what a plan can set right.
	broken bool
	state  netrules.State
}

// planned is the state that a plan begins with: a table that is to be replaced holds nothing.
func (t *table) planned() netrules.State {
	if t.broken {
		return empty(t.family)
	}
	return t.state
}

func empty(f netrules.Family) netrules.State {
	return netrules.State{Family: f, Table: Table, Exists: true, Notation: netrules.AsNFT, MaxComment: maxComment}
}

// nfFamily is a family as netlink has it.
func nfFamily(f netrules.Family) byte {
	if f == netrules.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// tableThere asks for our table and its flags.
func tableThere(f netrules.Family) (there bool, flags uint32, err error) {
	attrs, err := nfnetlink.Ask(unix.NFT_MSG_GETTABLE, nfFamily(f), nfnetlink.Name(unix.NFTA_TABLE_NAME, Table))
	if errors.Is(err, unix.ENOENT) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, fmt.Errorf("look for table %s: %w", Table, err)
	}
	return true, nfnetlink.Uint32(attrs, unix.NFTA_TABLE_FLAGS), nil
}

// dormant is NFT_TABLE_F_DORMANT: such a table has no hook.
const dormant = 0x1

// read reads our table in the calling thread's namespace.
func read(f netrules.Family) (*table, error) {
	t := &table{family: f, state: empty(f)}
	var flags uint32
	var err error
	if t.there, flags, err = tableThere(f); err != nil || !t.there {
		return t, err
	}
	t.broken = flags&dormant != 0
	rules := map[string][]rule{}
	left := nfnetlink.Budget{Messages: maxRules, Bytes: maxBytes, Each: nfnetlink.EachAttributes(func(attrs []netlink.Attribute) {
		r := decode(f, attrs)
		rules[r.chain] = append(rules[r.chain], r)
	})}
	if err := dumpRules(&left, f); err != nil {
		return nil, err
	}
	if left.Spent() {
		return nil, hint.Wrap(fmt.Errorf("table %s has more than %d rules", Table, maxRules),
			"look who has put so many rules into that network namespace: nft list table "+familyName(f)+" "+Table+" there; a container needs NET_ADMIN for it")
	}
	for _, name := range chainNames(rules) {
		c, state, err := askChain(f, name)
		if err != nil {
			return nil, err
		}
		if state == absent {
			continue
		}
		for _, r := range rules[name] {
			c.Rules = append(c.Rules, r.args)
			c.Handles = append(c.Handles, r.handle)
			c.Counters = append(c.Counters, r.counters)
			// At the hook there is nothing but what leads to ours.
			t.broken = t.broken || c.Policy != "" && !strings.HasPrefix(netrules.Target(r.args), netrules.ChainPrefix)
		}
		t.broken = t.broken || state == wrong
		t.state.Chains = append(t.state.Chains, c)
	}
	return t, nil
}

// chainNames are the chains to look for: those that we make, and what begins with our name
// among those that have a rule, or are led to by one.
func chainNames(rules map[string][]rule) []string {
	more := map[string]bool{}
	for name, of := range rules {
		more[name] = true
		for _, r := range of {
			more[netrules.Target(r.args)] = true
		}
	}
	names := []string{"OUTPUT", "PREROUTING", netrules.ChainPrefix, netrules.HostChain}
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if strings.HasPrefix(name, netrules.ChainPrefix) && !slices.Contains(names, name) && len(names) < maxChains {
			names = append(names, name)
		}
	}
	return names
}

// chainState is how a chain was found.
type chainState int

const (
	absent chainState = iota
	right
	wrong // it has another hook than ours has, or one although ours has none
)

// askChain asks for one chain of our table.
func askChain(f netrules.Family, name string) (netrules.ChainState, chainState, error) {
	c := netrules.ChainState{Name: name}
	attrs, err := nfnetlink.Ask(unix.NFT_MSG_GETCHAIN, nfFamily(f),
		nfnetlink.Name(unix.NFTA_CHAIN_TABLE, Table), nfnetlink.Name(unix.NFTA_CHAIN_NAME, name))
	if errors.Is(err, unix.ENOENT) {
		return c, absent, nil
	}
	if err != nil {
		return c, absent, fmt.Errorf("look for chain %s: %w", name, err)
	}
	hook, err := netlink.UnmarshalAttributes(nfnetlink.Data(attrs, unix.NFTA_CHAIN_HOOK))
	if err != nil {
		return c, absent, fmt.Errorf("look for chain %s: %w", name, err)
	}
	wanted, atHook := hookOf[name]
	switch {
	case len(hook) == 0 && atHook, len(hook) > 0 && !atHook:
		return c, wrong, nil
	case !atHook:
		return c, right, nil
	}
	c.Policy = "ACCEPT"
	if nfnetlink.Uint32(hook, unix.NFTA_HOOK_HOOKNUM) != wanted ||
		int32(nfnetlink.Uint32(hook, unix.NFTA_HOOK_PRIORITY)) != priority ||
		nfnetlink.Text(nfnetlink.Data(attrs, unix.NFTA_CHAIN_TYPE)) != "nat" ||
		nfnetlink.Uint32(attrs, unix.NFTA_CHAIN_POLICY) != uint32(nftables.ChainPolicyAccept) {
		return c, wrong, nil
	}
	return c, right, nil
}

// ourChains are the chains of ours that are there.
func ourChains(f netrules.Family) ([]string, error) {
	var names []string
	for _, name := range []string{netrules.ChainPrefix, netrules.HostChain} {
		_, state, err := askChain(f, name)
		if err != nil {
			return nil, err
		}
		if state != absent {
			names = append(names, name)
		}
	}
	return names, nil
}

// dumpRules lists the rules of our table.
func dumpRules(left *nfnetlink.Budget, f netrules.Family) error {
	return left.Dump(unix.NFT_MSG_GETRULE, nfFamily(f), nfnetlink.NameAttribute(unix.NFTA_RULE_TABLE, Table))
}

func familyName(f netrules.Family) string {
	if f == netrules.IPv6 {
		return "ip6"
	}
	return "ip"
}

// handleOf is a rule's number.
func handleOf(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
