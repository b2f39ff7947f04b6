package rulescmd

import (
	"context"
	"errors"
	"log/slog"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/mode/attach"
	"github.com/ambassadord/ambassadord/internal/mode/link"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Wanted says which rules Plan and Apply are about.
type Wanted struct {
	// Mode is config.Redirect, the rules in every container that declares a port,
	// or config.Link or config.Host, those in this process's own network namespace.
	Mode config.Mode
	// ListenPort is where the rules lead. 0 is for Plan alone: the port that a
	// running daemon has, or the next would try first.
	ListenPort uint16
}

// Planned is what is wanted in one network namespace for one family, and what has
// to change for it.
type Planned struct {
	Client    string // the name of the container whose namespace it is; "" in modes link and host
	ID        string // its short ID
	Namespace string // the path it was found at; "" for our own
	Family    netrules.Family
	Chain     netrules.Chain
	Changes   int
	Diff      []netrules.DiffLine
	Err       error // why it cannot be known, or was not done
	Unlisted  error // nil, or why no more than ours could be read; it carries a hint
}

// Plan reports what Run, in the wanted mode, would have in each network
// namespace, and what would have to change for it. It changes nothing.
func Plan(ctx context.Context, cfg config.Config, wanted Wanted, log *slog.Logger, report func(Planned)) error {
	if wanted.Mode == config.Host {
		return planHost(ctx, cfg, wanted, log, report)
	}
	return eachWanted(ctx, cfg, wanted, log, func(r filter.Rules, w wantedIn) { w.plan(ctx, r, report) })
}

// Apply makes the changes that Plan reports, once, and reports them: for
// hosts where another process listens at the wanted port. They stay until
// cleanup.Remove. While a daemon serves this host it refuses, for the daemon would set
// its own again.
func Apply(ctx context.Context, cfg config.Config, wanted Wanted, log *slog.Logger, report func(Planned)) error {
	if wanted.ListenPort == 0 {
		return errors.New("apply rules: no port to lead to")
	}
	unlock, err := handover.LockHost(ctx, cfg.RunDir, log)
	if err != nil {
		return err
	}
	defer unlock()
	if wanted.Mode == config.Host {
		return applyHost(ctx, cfg, wanted, report)
	}
	return eachWanted(ctx, cfg, wanted, log, func(r filter.Rules, w wantedIn) { w.apply(ctx, r, report) })
}

// wantedIn is what is wanted in one network namespace.
type wantedIn struct {
	client, id string
	ns         *netns.Namespace // nil for our own
	families   []netrules.Family
	chain      func(netrules.State) netrules.Chain
	err        error
}

func (w wantedIn) plan(ctx context.Context, rules filter.Rules, report func(Planned)) {
	p := Planned{Client: w.client, ID: w.id, Err: w.err}
	if w.ns != nil {
		p.Namespace = w.ns.Path()
	}
	if p.Err != nil {
		report(p)
		return
	}
	for _, f := range w.families {
		state, err := rules.Read(ctx, w.ns, f)
		if f == netrules.IPv6 && errors.Is(err, netrules.ErrUnsupported) {
			continue
		}
		p.Family, p.Err, p.Unlisted = f, err, state.Unlisted
		if err == nil {
			p.Chain = w.chain(state)
			changes := netrules.Plan(p.Chain, state)
			p.Changes, p.Diff = len(changes), netrules.Diff(state, changes)
		}
		report(p)
	}
}

// apply makes the changes that it reports.
func (w wantedIn) apply(ctx context.Context, rules filter.Rules, report func(Planned)) {
	w.plan(ctx, rules, func(p Planned) {
		if p.Err == nil {
			// A change of others since we looked is counted, though not in that diff.
			var applied filter.Applied
			applied, p.Err = rules.Apply(ctx, w.ns, p.Chain)
			p.Changes = len(applied.Changes)
		}
		report(p)
	})
}

// eachWanted calls do for every network namespace in which rules are wanted.
func eachWanted(ctx context.Context, cfg config.Config, wanted Wanted, log *slog.Logger, do func(filter.Rules, wantedIn)) error {
	if wanted.Mode == config.Link {
		if err := link.MustNotBeHost(); err != nil {
			return err
		}
	}
	rules, err := filter.Open(ctx, filter.Kind(cfg.Rules))
	if err != nil {
		return err
	}
	switch wanted.Mode {
	case config.Redirect:
	case config.Link:
		port := wanted.ListenPort
		if port == 0 {
			port = cfg.Port
		}
		do(rules, wantedIn{
			families: netrules.Families(),
			chain:    func(s netrules.State) netrules.Chain { return netrules.Link(s.Family, port) },
		})
		return nil
	default:
		return hint.Errorf("give redirect, host or link", "mode %s has no rules", wanted.Mode)
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
	return built.WithSnapshot(ctx, func(snapshot *dockerd.Snapshot) error {
		table := identity.Build(snapshot, nil, "", layers, built.Resolver.Parse)
		for _, n := range table.Namespaces() {
			if n.Owner.NetworkMode == "host" || len(attach.Ports(n)) == 0 {
				continue
			}
			wantedOf(ctx, built.Docker, n, wanted.ListenPort, func(w wantedIn) { do(rules, w) })
		}
		return nil
	})
}

// wantedOf opens a container's network namespace for as long as do needs it.
func wantedOf(ctx context.Context, engine *dockerd.Watcher, n *identity.Namespace, listen uint16, do func(wantedIn)) {
	w := wantedIn{client: n.Owner.Name, id: n.Owner.ShortID()}
	w.chain = func(s netrules.State) netrules.Chain {
		port := listen
		if port == 0 {
			port = listenPortIn(s)
		}
		return netrules.Redirect(s.Family, port, attach.Ports(n))
	}
	if w.ns, w.err = engine.OpenNamespace(ctx, n.Owner); w.err == nil {
		defer w.ns.Close()
		w.families, w.err = attach.Families(w.ns)
	}
	do(w)
}

// listenPortIn is the port that a running daemon redirects to, or the one that
// the next would try first.
func listenPortIn(state netrules.State) uint16 {
	for _, name := range state.Ours() {
		chain, _ := state.Chain(name)
		for _, args := range chain.Rules {
			if e := netrules.Explain(name, args); e.Listen != 0 {
				return e.Listen
			}
		}
	}
	return netrules.FirstListenPort
}
