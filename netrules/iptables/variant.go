package iptables

import (
	"context"
	"errors"
	"os/exec"
	"slices"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Choice is which of the kernel's packet filters is used, and what speaks for it.
type Choice struct {
	// Variant is the one that is used.
	Variant Variant
	// Path is its program for IPv4.
	Path string
	// Docker has the variants that hold chains of Docker's in the host's namespace:
	// none if it makes no rules or the host's namespace is out of our sight.
	Docker []Variant
}

// Mixed says what is wrong if this host uses both packet filters: nil if it does
// not. Rules of the two do not know of each other, and which come first depends on
// which were made first. The error carries a hint; it is one to show, not to fail
// with.
func (c Choice) Mixed() error {
	switch {
	case len(c.Docker) > 1:
		return hint.Errorf("restart the host, or the engine after iptables-legacy -F and -X in the tables nat and filter",
			"Docker has rules in both packet filters, %s and %s; %s is used for ours", c.Docker[0], c.Docker[1], c.Variant)
	case len(c.Docker) == 1 && c.Docker[0] != c.Variant:
		return hint.Errorf("install the iptables programs of that variant (iptables"+suffix(c.Docker[0])+")",
			"Docker's rules are in the packet filter %s, but %s is of variant %s", c.Docker[0], c.Path, c.Variant)
	}
	return nil
}

// other is the packet filter that is not v.
func other(v Variant) Variant {
	if v == Legacy {
		return NFT
	}
	return Legacy
}

// newToolLike finds the programs of a variant: the plain names' if they are of it,
// so that a host's own iptables is taken where there is a choice, else those that
// carry the variant's name. If there are none, the plain ones have to do.
func newToolLike(ctx context.Context, f netrules.Family, variant Variant, s settings) (*tool, error) {
	plain, err := newTool(ctx, f, "", s)
	if err == nil && plain.variant == variant {
		return plain, nil
	}
	if named, err := newTool(ctx, f, variant, s); !errors.Is(err, exec.ErrNotFound) {
		return named, err
	}
	return plain, err
}

// dockerVariants returns where Docker's chains are.
func dockerVariants() (found []Variant) {
	eachHost(func() error { found = dockerHere(); return nil }, func() bool { return len(found) > 0 })
	return found
}

// eachHost looks into what may be the host's namespace, until that is done: ours, that of
// process 1, and the one that the engine keeps for containers with the host's network.
func eachHost(look func() error, done func() bool) bool {
	if look() == nil && done() {
		return true
	}
	for _, path := range []string{"/proc/1/ns/net", "/run/docker/netns/default"} {
		ns, err := netns.Open(path)
		if err != nil {
			continue // not there, or not for our eyes
		}
		err = ns.Do(look)
		_ = ns.Close()
		if err == nil && done() {
			return true
		}
	}
	return false
}

// dockerHere returns which packet filters of the calling thread's namespace hold
// chains of Docker's; of what cannot be asked nothing is known.
func dockerHere() []Variant {
	var found []Variant
	if chains, err := nftChains(netrules.IPv4); err == nil && slices.ContainsFunc(chains, dockers) {
		found = append(found, NFT)
	}
	if chains, err := chainsIn(Legacy, netrules.IPv4); err == nil && slices.Contains(chains, dockerChain) {
		found = append(found, Legacy)
	}
	return found
}

// dockerChain is Docker's chain in the nat table, whatever its version.
const dockerChain = "DOCKER"

// dockers reports whether a chain is Docker's: made through iptables, or by its
// nftables backend, which has tables of its own.
func dockers(c nftChain) bool {
	return c.table == natTable && c.name == dockerChain || c.table == engineTable
}

// engineTable is the table that the nftables backend of Docker makes.
const engineTable = "docker-bridges"
