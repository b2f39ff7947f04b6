package rulescmd

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/sourceguard"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// planHost reports what mode host would have in this namespace: to each family its
// address and chain, then the guard's table with what it binds now.
func planHost(ctx context.Context, cfg config.Config, wanted Wanted, log *slog.Logger, report func(Planned)) error {
	rules, err := filter.Open(ctx, filter.Kind(cfg.Rules))
	if err != nil {
		return err
	}
	addrs, err := (*netns.Namespace)(nil).Addrs()
	if err != nil {
		return err
	}
	for _, addr := range cfg.HostAddrs {
		wantedAt(addr, wanted.ListenPort).plan(ctx, rules, func(p Planned) {
			if line := netrules.AddressText(addr); slices.Contains(addrs, addr) {
				p.Diff = slices.Insert(p.Diff, 0, netrules.DiffLine{Sign: netrules.Kept, Text: line})
			} else if p.Err == nil {
				p.Diff = slices.Insert(p.Diff, 0, netrules.DiffLine{Sign: netrules.Added, Text: line})
				p.Changes++
			}
			report(p)
		})
	}
	return planGuard(ctx, cfg, log, report)
}

// wantedAt is the chain of mode host for one address.
func wantedAt(addr netip.Addr, listen uint16) wantedIn {
	return wantedIn{
		families: []netrules.Family{netrules.FamilyOf(addr)},
		chain: func(s netrules.State) netrules.Chain {
			port := listen
			if port == 0 {
				port = listenPortIn(s)
			}
			return netrules.Host(s.Family, addr, port)
		},
	}
}

// planGuard reports the guard's table. Containers whose port cannot be found are
// reported on their own: they would be cut off until it is.
func planGuard(ctx context.Context, cfg config.Config, log *slog.Logger, report func(Planned)) error {
	wiring, err := netns.ReadWiring(nil)
	if err != nil {
		return err
	}
	tables, err := guard.Read(nil)
	if err != nil {
		return err
	}
	built, err := sources.Build(cfg, "", nil, log)
	if err != nil {
		return err
	}
	defer built.Close()
	layers, err := settings.LayersOf(cfg, built.Resolver.Parse)
	if err != nil {
		return err
	}
	runtimes := ociruntime.Runtimes{Ask: built.Docker.Runtimes, Log: log}
	guarding := sourceguard.Config{Namespaces: built.Docker, OwnStack: runtimes.OwnStack, Log: log}
	var bindings []guard.Binding
	err = built.WithSnapshot(ctx, func(snapshot *dockerd.Snapshot) error {
		for _, n := range identity.Build(snapshot, nil, "", layers, built.Resolver.Parse).Namespaces() {
			if !sourceguard.Guarded(n) {
				continue
			}
			bound, err := sourceguard.Bindings(ctx, guarding, wiring, n)
			if err != nil {
				report(Planned{Client: n.Owner.Name, ID: n.Owner.ShortID(), Family: netrules.Bridge, Err: err})
			}
			bindings = append(bindings, bound...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var there guard.State
	for _, table := range tables {
		if table.Name == guard.TableName {
			there = table
		}
	}
	p := Planned{
		Family: netrules.Bridge,
		Diff:   netrules.DiffLines(there.Lines(), guard.Wanted(guard.TableName, cfg.HostAddrs, bindings).Lines()),
	}
	for _, line := range p.Diff {
		if line.Sign != netrules.Kept {
			p.Changes++
		}
	}
	report(p)
	return nil
}

// applyHost sets the chains of mode host for addresses that are here to stay. What
// else that mode needs lives and dies with a daemon.
func applyHost(ctx context.Context, cfg config.Config, wanted Wanted, report func(Planned)) error {
	if !cfg.TrustSources {
		return hint.Errorf("run: ambassadord run --mode host; or accept the risk with --trust-source-addresses",
			"mode host: the guard against forged source addresses lives with the process that made it, and cannot be set once")
	}
	rules, err := filter.Open(ctx, filter.Kind(cfg.Rules))
	if err != nil {
		return err
	}
	own := (*netns.Namespace)(nil)
	addrs, err := own.Addrs()
	leases, leasesErr := own.Leases()
	if err := errors.Join(err, leasesErr); err != nil {
		return err
	}
	for _, addr := range cfg.HostAddrs {
		w := wantedAt(addr, wanted.ListenPort)
		if !slices.Contains(addrs, addr) || slices.Contains(leases, addr) {
			report(Planned{Family: w.families[0], Err: hint.Errorf("run: ip addr add "+netip.PrefixFrom(addr, addr.BitLen()).String()+" dev lo",
				"mode host: %s is not an address that this host keeps; a daemon's own goes with it", addr)})
			continue
		}
		w.apply(ctx, rules, report)
	}
	return nil
}
