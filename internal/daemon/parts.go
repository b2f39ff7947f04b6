package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/ambassadord/ambassadord/internal/accesslog"
	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/attached"
	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/endpoints"
	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/internal/failures"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/inquiry"
	"github.com/ambassadord/ambassadord/internal/keeper"
	"github.com/ambassadord/ambassadord/internal/listenset"
	"github.com/ambassadord/ambassadord/internal/metrics"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/mode/fixed"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/internal/trim"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// parts are what a daemon is made of, but for its modes.
type parts struct {
	cfg   config.Config // that it was started with
	log   *slog.Logger
	modes []config.Mode
	have  privilege.Set
	self  string // our own container's ID, "" outside of one

	sources   *sources.Sources
	engine    *dockerd.Watcher // nil when nothing needs an engine
	runtimes  ociruntime.Runtimes
	inquiries inquiry.Group
	rules     filter.Rules // nil when no mode needs rules
	counters  *metrics.Counters
	events    *events.Log // what the log has told of; nil for none
	lines     *accesslog.Log
	server    *proxy.Server
	bounds    limit.Bounds // the server's, as it was started
	failed    failures.Last
	attached  attached.Namespaces
	balancer  *balance.Registry
	endpoints *endpoints.Book
	keeper    *keeper.Keeper

	reader    settings.Reader
	settings  *settings.Current
	clients   identity.Latest
	hold      hold.Hold
	routes    *route.Router
	sockets   *listenset.Set
	listeners *fixed.Listeners
	admin     *admin.Server // nil where it serves none; made by newAdmin
	turn      handover.Turn
	dir       *rundir.Dir // of locks and sockets; nil where there can be none
	staying   cleanup.Staying
	leftovers cleanup.Leftovers
}

// build makes the parts and runs those that others need, until stop is called.
func build(ctx context.Context, cfg config.Config, log *slog.Logger, kept *events.Log) (*parts, func(), error) {
	p := &parts{cfg: cfg, log: log, events: kept}
	// The parts outlive ctx: connections that are drained still need them.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	stop := func() {
		cancel()
		if p.routes != nil {
			p.routes.Wait()
		}
		running.Wait()
		if p.sources != nil {
			p.sources.Close()
		}
		if p.lines != nil {
			p.lines.Close()
		}
	}
	if err := p.assemble(ctx, background, &running); err != nil {
		stop()
		return nil, nil, err
	}
	return p, stop, nil
}

// assemble makes the parts. It runs those that others need until background ends, also when it fails.
func (p *parts) assemble(ctx, background context.Context, running *sync.WaitGroup) (err error) {
	p.staying.Log = p.log
	p.self, _ = containerproc.Self(ctx)
	if p.have, err = privilege.Effective(); err != nil {
		return err
	}
	p.modes = mode.Effective(p.cfg.Modes, p.self != "", p.have, p.log)
	p.counters = metrics.New(metrics.Options{Series: p.cfg.MetricsSeries, Endpoints: p.cfg.MetricsEndpoints, Log: p.log})
	p.lines = accesslog.New(p.log, p.events)
	p.lines.Change(p.cfg)
	p.lines.Reopen(0)
	if p.server, p.bounds, err = newServer(p.cfg, p.counters, p.lines, &p.failed, p.log); err != nil {
		return err
	}

	var audience *route.Audience // which nobody asks before it is there
	p.sources, err = sources.Build(p.cfg, p.self, func(server string, addr netip.AddrPort) error { return audience.MayAsk(server, addr) }, p.log)
	if err != nil {
		return err
	}
	p.balancer = balance.New(balance.Config{Log: p.log, Dial: proxy.DialCheck, OwnFault: proxy.OwnFault, Permit: func(target string) func(netip.AddrPort, bool) error {
		return audience.MayCheck(target)
	}})
	p.endpoints = &endpoints.Book{Pools: p.balancer, Log: p.log}
	p.reader = settings.Reader{Parse: p.sources.Resolver.Parse, Modes: p.modes, Registries: p.sources.Registries, Host: new(settings.HostAddrs)}
	s, err := p.reader.Read(p.cfg)
	if err != nil {
		return err
	}
	p.settings = settings.NewCurrent(s)
	if len(p.modes) > 0 || listenersAskEngine(p.cfg, &p.reader) {
		p.engine = p.sources.Docker
		// It takes longest to answer, so it is asked before the packet filter is.
		running.Go(func() { _ = p.engine.Run(background) }) // returns nil, when background ends
	}
	if err := p.openRules(ctx); err != nil {
		return err
	}
	if err := p.mustBeAllowed(); err != nil {
		return err
	}

	p.connect(background)
	audience = route.NewAudience(p.routes, p.reader.Parse)
	p.routes.ShareAmong(nil)
	running.Go(func() { _ = p.sources.Resolver.Run(background) }) // as the engine's
	running.Go(func() { _ = p.balancer.Run(background) })         // likewise
	running.Go(func() { trim.Run(background, trim.DaemonHeap) })
	if len(p.cfg.Keeper) > 0 && os.Getpid() != 1 { // all of a container ends with its process 1
		p.keeper = keeper.New(p.cfg.Keeper, p.log)
		p.server.Keeper = p.keeper
		running.Go(func() { p.keeper.Run(background) })
	}
	return nil
}

// openRules opens the packet filter if a mode needs one.
func (p *parts) openRules(ctx context.Context) (err error) {
	if !p.any(func(m mode.Row) bool { return m.Rules }) {
		return nil
	}
	if p.rules, err = filter.Open(ctx, filter.Kind(p.cfg.Rules)); err != nil {
		return err
	}
	if mixed := filter.Mixed(p.rules); mixed != nil {
		p.log.Warn("this host uses both packet filters", "error", mixed, hint.Attr(mixed))
	}
	return nil
}

// connect makes the parts that take other parts.
func (p *parts) connect(background context.Context) {
	p.hold = hold.Hold{Clients: &p.clients, Settings: p.settings}
	c := route.Config{
		Targets: p.sources.Resolver, Pools: p.balancer, Settings: p.settings, Clients: &p.clients, Hold: &p.hold, Log: p.log,
		Containers: len(p.modes) > 0, Limit: p.server.Limit, Unknown: p.server.Unknown,
	}
	if p.engine != nil { // or the interfaces would not be nil
		p.hold.Engine, c.Snapshots, c.Images = p.engine, p.engine, p.engine
		p.runtimes = ociruntime.Runtimes{Ask: p.engine.Runtimes, Log: p.log}
		c.Inquire = func(ctx context.Context, id string) (*dockerd.Container, error) {
			return p.inquiries.Ask(ctx, id, p.engine.Inspect)
		}
	}
	p.routes = route.New(background, c)
	p.sockets = listenset.New(p.server, p.log)
	p.listeners = fixed.New(fixed.Config{
		Sockets: p.sockets, Routes: p.routes, Clients: &p.clients, Hold: &p.hold, Parse: p.reader.Parse, Log: p.log,
	})
	p.leftovers = cleanup.Leftovers{
		Rules: p.rules, KeepOwn: p.any(func(m mode.Row) bool { return m.OwnNamespace }), Sockets: p.sockets, Staying: &p.staying, Log: p.log,
	}
}

// any reports whether one of the modes has what is asked for.
func (p *parts) any(has func(mode.Row) bool) bool { return mode.Any(p.modes, has) }

// hostWide reports whether we are the daemon of a host.
func (p *parts) hostWide() bool { return p.any(func(m mode.Row) bool { return m.HostWide }) }

// mustBeAllowed refuses modes that this process lacks a capability for, and names
// it.
func (p *parts) mustBeAllowed() error {
	for _, m := range p.modes {
		missing := mode.Missing(m, p.circumstances(), p.have)
		if len(missing) == 0 || mode.Of(m).Port && p.cfg.RulesByOthers {
			continue
		}
		return hint.Errorf(privilege.Hint(missing), "mode %s lacks the capability %s", m, strings.Join(missing, ", "))
	}
	return nil
}

func (p *parts) circumstances() privilege.Circumstances {
	return privilege.Circumstances{
		Legacy:      p.rules != nil && p.rules.Variant() == netrules.IPTablesLegacy,
		ThroughProc: !netns.EngineFolderVisible(),
	}
}

// listenersAskEngine reports whether a listener of cfg, which r has read, leads to what the engine
// says.
func listenersAskEngine(cfg config.Config, r *settings.Reader) bool {
	for _, l := range cfg.Listeners {
		if target, err := r.Parse(l.Target); err == nil && sources.AskEngine(target) {
			return true
		}
	}
	return false
}
