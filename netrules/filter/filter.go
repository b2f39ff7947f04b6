// Package filter is how the daemon's rules get into the kernel, by whichever way this host
// has: by the iptables programs (netrules/iptables) or by netlink alone (netrules/nft). It
// chooses, and keeps our rules by one way only: those that an older daemon has set by the other go
// with the next Apply or Remove.
//
// The package also has what only one way needs: with iptables the track pin
// (netrules/anchor), because its table is everybody's to flush.
package filter

import (
	"context"
	"errors"
	"os/exec"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nft"
)

// Kind is a way.
type Kind string

// The kinds. Auto is NFT where the engine sets its own rules so or there is no iptables
// program, else IPTables.
const (
	Auto     Kind = "auto"
	IPTables Kind = "iptables"
	NFT      Kind = "nft"
)

// Rules is one way. It may be used concurrently on different namespaces; calls for the same
// namespace are for the caller to keep apart. A nil namespace is the process's own.
type Rules interface {
	Reader
	Changer
	Watcher
}

// Reader tells what is there.
type Reader interface {
	// Variant is what holds the rules.
	Variant() netrules.Variant
	// Serves reports whether there can be rules of a family; of another, what is asked is
	// netrules.ErrUnsupported.
	Serves(f netrules.Family) bool
	// Read returns the table that has our chains, ReadCounters with how much each rule has
	// matched. Reading never makes the table.
	Read(ctx context.Context, ns *netns.Namespace, f netrules.Family) (netrules.State, error)
	ReadCounters(ctx context.Context, ns *netns.Namespace, f netrules.Family) (netrules.State, error)
	// Chains are the names of our chains. It takes no process, so it can be asked of all
	// namespaces of a host.
	Chains(ns *netns.Namespace, f netrules.Family) ([]string, error)
	// Elsewhere are those in which this way has no part. An earlier daemon left them.
	Elsewhere(ns *netns.Namespace, f netrules.Family) ([]string, error)
	// ReadElsewhere returns what holds those, as far as it can be read here.
	ReadElsewhere(ctx context.Context, ns *netns.Namespace, f netrules.Family) ([]netrules.State, error)
}

// Changer changes it.
type Changer interface {
	// Pin has connections that came by our rules go on when somebody flushes these, until unpin
	// is called, which lets go of the namespace. Where Apply sees to that, it does nothing, and
	// neither where the kernel has no means for it. It is nil while another daemon has pinned
	// them: when that lets go, it shows as a change.
	Pin(ns *netns.Namespace) (unpin func(), err error)
	// Apply makes a namespace hold chains, at most one of each family, with their jumps. All
	// changes of a family are made at once or, on an error, none.
	Apply(ctx context.Context, ns *netns.Namespace, chains ...netrules.Chain) (Applied, error)
	// Unhook takes every jump to a chain of ours out. New connections no longer come our way;
	// those already translated go on until Remove.
	Unhook(ctx context.Context, ns *netns.Namespace) error
	// Remove takes all that is ours out, and returns the chains that were there.
	Remove(ctx context.Context, ns *netns.Namespace) (map[netrules.Family][]string, error)
}

// Watcher tells when to look.
type Watcher interface {
	// Told reports whether the kernel tells of every change of the rules
	// (netns.Namespace.Changes).
	Told() bool
	// Mark returns a number that is another one whenever what Apply has made may have changed.
	// It takes no process. Take it before the Apply that it stands for.
	Mark(ctx context.Context, ns *netns.Namespace) (uint64, error)
	// Heavy reports whether it takes long to read the rules, of which whoever has NET_ADMIN in
	// a namespace may make any number.
	Heavy(ns *netns.Namespace) (bool, error)
}

// Applied is what an Apply found and did.
type Applied struct {
	Changes []netrules.Change
	// Lacking are the families that this host holds no rules for; the other is served.
	Lacking []netrules.Family
	// Unlisted is why somebody's rule keeps iptables from listing a family's table
	// (iptables.ErrUnlisted), nil where it does not. The chain is as wanted all the same.
	Unlisted map[netrules.Family]error
	// Pinned says that the track pin had to be set, and Unpinned why it cannot be: then
	// connections break when somebody flushes the rules.
	Pinned   bool
	Unpinned error
	// Mark is what Watcher's Mark is as long as nobody has changed anything since the Apply: then
	// what it has made need not be looked at once more. 0 says that this is not known.
	Mark uint64
}

// Settled reports whether all was in order.
func (a Applied) Settled() bool { return len(a.Changes) == 0 && !a.Pinned && a.Unpinned == nil }

// Choice is which way a host's rules go, and why.
type Choice struct {
	Kind Kind
	Why  string
}

// Choose says which way is taken where kind is asked for, "" being Auto.
func Choose(kind Kind) Choice {
	switch {
	case kind == NFT || kind == IPTables:
		return Choice{kind, "as --rules says"}
	case iptables.EngineUsesNFT():
		return Choice{NFT, "as the engine's own rules"}
	}
	if _, err := exec.LookPath(netrules.IPv4.Command()); errors.Is(err, exec.ErrNotFound) {
		return Choice{NFT, "no iptables program is installed"}
	}
	return Choice{IPTables, "its programs are installed"}
}

// Open finds what a way needs, once for all namespaces.
func Open(ctx context.Context, kind Kind) (Rules, error) {
	if Choose(kind).Kind == NFT {
		rules, err := nft.New()
		if err != nil {
			return nil, err
		}
		return &byNetlink{rules: rules}, nil
	}
	rules, err := iptables.New(ctx)
	if err != nil {
		return nil, err
	}
	return ByPrograms(rules), nil
}

// All are the ways that this host has, the one that Auto takes first.
func All(ctx context.Context) ([]Rules, error) {
	kinds := []Kind{IPTables, NFT}
	if Choose(Auto).Kind == NFT {
		kinds = []Kind{NFT, IPTables}
	}
	first, err := Open(ctx, kinds[0])
	if err != nil {
		return nil, err
	}
	ways := []Rules{first}
	if second, err := Open(ctx, kinds[1]); err == nil { // else nobody has set any by that
		ways = append(ways, second)
	}
	return ways, nil
}

// familiesOf are those of chains.
func familiesOf(chains []netrules.Chain) []netrules.Family {
	all := make([]netrules.Family, len(chains))
	for i, c := range chains {
		all[i] = c.Family
	}
	return all
}

// Mixed says what is wrong where a host uses both of the kernel's packet filters, nil where it
// does not. It carries a hint.
func Mixed(r Rules) error {
	if p, ok := r.(*byPrograms); ok {
		return p.Choice().Mixed()
	}
	return nil
}
