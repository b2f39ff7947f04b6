package filter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/anchor"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/nft"
)

// byPrograms sets rules by the iptables programs.
type byPrograms struct {
	*iptables.Rules

	beside func() *iptables.Rules // for the packet filter that is not used; nil without its programs
}

// ByPrograms is the way of iptables, by rules.
func ByPrograms(rules *iptables.Rules) Rules {
	other := iptables.Legacy
	if rules.Variant() == iptables.Legacy {
		other = iptables.NFT
	}
	return &byPrograms{rules, sync.OnceValue(func() *iptables.Rules {
		// Without its programs nobody has made any.
		r, err := iptables.New(context.Background(), iptables.Prefer(other)) // bounds itself
		if err != nil {
			return nil
		}
		return r
	})}
}

// own are the tables of netrules/nft.
var own nft.Rules

// Serves is part of Reader.
func (p *byPrograms) Serves(f netrules.Family) bool {
	_, err := p.Fingerprint(context.Background(), nil, f) // reads, and bounds itself
	return !errors.Is(err, netrules.ErrUnsupported)
}

// Elsewhere is part of Reader.
func (p *byPrograms) Elsewhere(ns *netns.Namespace, f netrules.Family) ([]string, error) {
	elsewhere, err := p.Rules.Elsewhere(ns, f)
	if err != nil {
		return nil, err
	}
	tables, err := own.Chains(ns, f)
	if errors.Is(err, netrules.ErrUnsupported) {
		err = nil
	}
	return append(elsewhere, tables...), err
}

// ReadElsewhere is part of Reader.
func (p *byPrograms) ReadElsewhere(ctx context.Context, ns *netns.Namespace, f netrules.Family) ([]netrules.State, error) {
	var states []netrules.State
	elsewhere, err := p.Rules.Elsewhere(ns, f)
	if err != nil {
		return nil, err
	}
	if beside := p.beside(); len(elsewhere) > 0 && beside != nil {
		state, err := beside.Read(ctx, ns, f)
		if err != nil {
			return nil, err
		}
		states = append(states, state)
	}
	return appendOwn(ctx, states, ns, f)
}

// appendOwn adds our own table of a family, if it has a chain of ours.
func appendOwn(ctx context.Context, states []netrules.State, ns *netns.Namespace, f netrules.Family) ([]netrules.State, error) {
	state, err := own.Read(ctx, ns, f)
	switch {
	case errors.Is(err, netrules.ErrUnsupported):
		return states, nil
	case err == nil && len(state.Ours()) > 0:
		states = append(states, state)
	}
	return states, err
}

// Pin is part of Changer. The track pin of Apply stays when we do not.
func (*byPrograms) Pin(*netns.Namespace) (func(), error) { return func() {}, nil }

// Apply is part of Changer. The families are worked on at the same time: in a new namespace a
// container is about to start.
func (p *byPrograms) Apply(ctx context.Context, ns *netns.Namespace, chains ...netrules.Chain) (Applied, error) {
	found := make([]iptables.Applied, len(chains))
	errs := make([]error, len(chains))
	var working sync.WaitGroup
	for i, c := range chains {
		working.Go(func() { found[i], errs[i] = p.Ensure(ctx, ns, c) })
	}
	working.Wait()
	applied := Applied{Unlisted: map[netrules.Family]error{}}
	for i, c := range chains {
		if c.Family == netrules.IPv6 && errors.Is(errs[i], netrules.ErrUnsupported) && len(chains) > 1 {
			applied.Lacking, errs[i] = append(applied.Lacking, c.Family), nil
			continue
		}
		applied.Changes = append(applied.Changes, found[i].Changes...)
		applied.Unlisted[c.Family] = found[i].Unlisted
	}
	if err := errors.Join(errs...); err != nil {
		return applied, err
	}
	err := ns.Visit(func(ns *netns.Namespace) error {
		if slices.ContainsFunc(chains, func(c netrules.Chain) bool { return c.Hook == "OUTPUT" }) {
			applied.Pinned, applied.Unpinned = anchor.Set(ns)
			if errors.Is(applied.Unpinned, anchor.ErrUnsupported) {
				applied.Unpinned = nil // it does without
			}
		}
		// Last, so that at no moment nothing redirects.
		return dropOwn(ctx, ns, familiesOf(chains)...)
	})
	return applied, err
}

// dropOwn removes our own tables of some families, which a daemon with the other way has left.
func dropOwn(ctx context.Context, ns *netns.Namespace, some ...netrules.Family) error {
	_, err := own.Remove(ctx, ns, some...)
	if errors.Is(err, netrules.ErrUnsupported) {
		return nil
	}
	return err
}

// Unhook is part of Changer.
func (p *byPrograms) Unhook(ctx context.Context, ns *netns.Namespace) error {
	return ns.Visit(func(ns *netns.Namespace) error { return p.unhook(ctx, ns) })
}

func (p *byPrograms) unhook(ctx context.Context, ns *netns.Namespace) error {
	var errs []error
	for _, f := range netrules.Families() {
		if _, err := p.Rules.Unhook(ctx, ns, f); !errors.Is(err, netrules.ErrUnsupported) {
			errs = append(errs, err)
		}
		if elsewhere, err := p.Rules.Elsewhere(ns, f); err != nil || len(elsewhere) == 0 {
			continue // what is wrong has been said
		}
		if beside := p.beside(); beside != nil {
			_, err := beside.Unhook(ctx, ns, f)
			errs = append(errs, err)
		}
	}
	if err := own.Unhook(ctx, ns); !errors.Is(err, netrules.ErrUnsupported) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Remove is part of Changer.
func (p *byPrograms) Remove(ctx context.Context, ns *netns.Namespace) (removed map[netrules.Family][]string, err error) {
	err = ns.Visit(func(ns *netns.Namespace) (err error) {
		removed, err = p.remove(ctx, ns)
		return err
	})
	return removed, err
}

func (p *byPrograms) remove(ctx context.Context, ns *netns.Namespace) (map[netrules.Family][]string, error) {
	removed, err := own.Remove(ctx, ns, netrules.Families()...)
	if errors.Is(err, netrules.ErrUnsupported) {
		removed, err = map[netrules.Family][]string{}, nil
	}
	errs := []error{err}
	for _, f := range netrules.Families() {
		found, err := p.Rules.Remove(ctx, ns, f)
		if errors.Is(err, netrules.ErrUnsupported) {
			continue
		}
		if err == nil && found.MadeTable {
			err = p.DropTable(ctx, ns, f)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
		}
		if len(found.Chains) > 0 {
			removed[f] = append(removed[f], found.Chains...)
		}
	}
	if err := unpin(ns); err != nil {
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// unpin takes the track pin out. Another process's table by its name is none of ours.
func unpin(ns *netns.Namespace) error {
	if err := anchor.Drop(ns); !errors.Is(err, anchor.ErrUnsupported) && !errors.Is(err, anchor.ErrForeign) {
		return err
	}
	return nil
}

// Mark is part of Watcher.
func (p *byPrograms) Mark(ctx context.Context, ns *netns.Namespace) (uint64, error) {
	generation, err := iptables.Generation(ns)
	if p.Told() { // of both families, and of the pin
		return generation, err
	}
	hash := fnv.New64a()
	for _, f := range netrules.Families() {
		mark, err := p.Fingerprint(ctx, ns, f)
		if err != nil && !errors.Is(err, netrules.ErrUnsupported) {
			return 0, err
		}
		_, _ = hash.Write(binary.BigEndian.AppendUint64(nil, mark))
	}
	if err == nil { // without nftables there is no pin either
		_, _ = hash.Write(binary.BigEndian.AppendUint64(nil, generation))
	}
	return hash.Sum64(), nil
}
