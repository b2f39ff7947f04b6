package doctor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/iptables"
)

// checkRules says how rules get into the kernel, and why so.
func checkRules(ctx context.Context, h *environment) Result {
	if !h.needsRules() {
		return h.unneeded()
	}
	choice := filter.Choose(h.Rules)
	if _, err := filter.Open(ctx, h.Rules); err != nil {
		return broken(err)
	}
	if choice.Kind == filter.NFT {
		return ok("by netlink, in the tables ip and ip6 ambassadord of nftables: %s", choice.Why)
	}
	return ok("by iptables: %s", choice.Why)
}

func checkIptables(ctx context.Context, h *environment) Result {
	if !h.needsRules() {
		return h.unneeded()
	}
	if choice := filter.Choose(h.Rules); choice.Kind == filter.NFT {
		return ok("not needed: rules are set by netlink, %s", choice.Why)
	}
	rules, err := iptables.New(ctx)
	if err != nil {
		return broken(err)
	}
	choice := rules.Choice()
	_, err = rules.Read(ctx, nil, netrules.IPv6)
	if errors.Is(err, netrules.ErrUnsupported) {
		return warn("install ip6tables (part of Debian's package iptables), unless IPv6 is turned off",
			"%s, variant %s, for IPv4 alone", choice.Path, choice.Variant)
	}
	return ok("%s, variant %s, for IPv4 and IPv6", choice.Path, choice.Variant)
}

// natRules is how many rules one variant holds in the nat tables of our own
// network namespace.
type natRules struct {
	variant iptables.Variant
	rules   int
}

func checkMix(ctx context.Context, h *environment) Result {
	if !h.needsRules() {
		return h.unneeded()
	}
	rules, err := iptables.New(ctx)
	if errors.Is(err, exec.ErrNotFound) && filter.Choose(h.Rules).Kind == filter.NFT {
		return ok("no iptables program, so nobody mixes its variants")
	}
	if err != nil {
		return undone(err)
	}
	var found []natRules
	for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
		n, err := countRules(ctx, v)
		if err != nil {
			return undone(err)
		}
		found = append(found, n)
	}
	return judgeMix(rules.Choice(), found)
}

// countRules counts the rules of one variant; without its programs there is
// nobody who could have made any.
func countRules(ctx context.Context, v iptables.Variant) (natRules, error) {
	n := natRules{variant: v}
	rules, err := iptables.New(ctx, iptables.Prefer(v))
	if errors.Is(err, exec.ErrNotFound) {
		return n, nil
	}
	if err != nil {
		return n, fmt.Errorf("look for %s rules: %w", v, err)
	}
	for _, f := range netrules.Families() {
		state, err := rules.Read(ctx, nil, f)
		if errors.Is(err, netrules.ErrUnsupported) {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("look for %s rules: %w", v, err)
		}
		for _, c := range state.Chains {
			n.rules += len(c.Rules)
		}
		if state.Unlisted != nil {
			n.rules++ // one at least: that which keeps iptables from listing the others
		}
	}
	return n, nil
}

func judgeMix(choice iptables.Choice, found []natRules) Result {
	if err := choice.Mixed(); err != nil {
		return warn(hint.Of(err), "%v", err)
	}
	var used []natRules
	for _, n := range found {
		if n.rules > 0 {
			used = append(used, n)
		}
	}
	switch len(used) {
	case 0:
		return ok("no nat rules of either variant")
	case 1:
		return ok("all nat rules are of variant %s", used[0].variant)
	}
	return warn("find out whose they are (iptables-nft-save, iptables-legacy-save) and let all use one variant: update-alternatives --config iptables",
		"the nat tables hold rules of both variants, %d of %s and %d of %s, which do not know of each other",
		used[0].rules, used[0].variant, used[1].rules, used[1].variant)
}
