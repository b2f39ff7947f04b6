// Package agent is the composition root: it builds every part from a Config,
// runs them, and takes them down in order.
//
//	Run:  engine snapshots → identity table → resolver.Keep (warm watches)
//	                                        → attachments   (mode redirect)
//	      listeners → proxy.Server, each with the Router that knows its clients
//
// Going down: rules unhooked and listeners closed, connections drained, what the
// rules left behind removed, and only then the watches stopped, because a
// connection that is being drained may still need an answer.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/inquiry"
	"github.com/ambassadord/ambassadord/internal/keeper"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/internal/trim"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// agent is a running daemon.
type agent struct {
	cfg      config.Config
	log      *slog.Logger
	modes    []config.Mode
	self     string // our own container's ID, "" outside of one
	have     privilege.Set
	resolver *resolver.Resolver
	docker   *dockerd.Watcher // nil when nothing needs an engine
	rules    filter.Rules     // nil when no mode needs rules
	server   *proxy.Server
	balancer *balance.Registry
	table    latestTable
	follower follower
	running  []mode
	bounds   proxy.Bounds           // the server's, as it was started
	tuning   atomic.Pointer[tuning] // see tuned
	reloads  reloads

	fixedOpen map[string]*fixedListener // by the address as configured; see changeListeners

	registries []string  // those that the operator has configured
	addrs      hostAddrs // of this host
	audits     audits
	audience   audience
	inquiries  inquiry.Group

	upstreams upstreams
	removals  *removals

	accepting sync.WaitGroup // every Serve

	registry       handover.Registry // what we listen on
	shelf          shelf             // where they are kept for the next process of our unit
	leftovers      leftovers         // what that has left which nobody needs
	inherited      *handover.Set     // what the daemon before us has left; may be nil
	adoptedSockets atomic.Int64      // how many of them we serve
	gate           chan struct{}     // closed when that daemon has let go; nil if there is none
	followedOnce   sync.Once
	followed       chan struct{} // closed when the first table has been followed
	readied        chan struct{} // closed when we are ready
	giving         chan struct{} // full while another daemon takes over, or none may any more
	stopping       atomic.Bool   // we have been told to end
	deadlineOnce   sync.Once
	deadlineAt     time.Time   // see deadline
	succeeding     bool        // a daemon before us broke a takeover off, and we are to serve in its place
	departed       atomic.Bool // another daemon has taken over
	given          atomic.Bool // another daemon has our locks, and serves
	hostLock       *handover.HostLock
	dir            *rundir.Dir // of locks and sockets; nil where there can be none
	keeper         *keeper.Keeper
	staying        cleanup.Staying
	runtimes       dockerd.Runtimes
	drained        func()          // says that we carry no connection any more, after leave
	handing        chan *successor // a new daemon accepts
}

// Hooks are for whoever runs the daemon; each may be nil.
type Hooks struct {
	Ready  func()                        // called once it serves
	Hurry  <-chan struct{}               // closed when the drain is to end at once
	Load   func() (config.Config, error) // reads the configuration anew
	Reload <-chan os.Signal              // asks for that
	Tuned  func(config.Config)           // told of a configuration that was read anew and holds
}

// start builds the parts and runs those that others need, until stop is called.
func start(ctx context.Context, cfg config.Config, log *slog.Logger) (*agent, func(), error) {
	a := &agent{
		cfg: cfg, log: log, fixedOpen: map[string]*fixedListener{},
		followed: make(chan struct{}), readied: make(chan struct{}), handing: make(chan *successor), giving: make(chan struct{}, 1),
	}
	a.staying.Log = log
	a.self, _ = dockerd.Self(ctx)
	var err error
	if a.have, err = privilege.Effective(); err != nil {
		return nil, nil, err
	}
	a.modes = effectiveModes(cfg.Modes, a.self != "", enterable(a.have), log)
	a.balancer = balance.New(balance.Config{Log: log, Dial: proxy.DialCheck, Permit: a.mayCheck, OwnFault: proxy.OwnFault})
	if a.server, err = a.newServer(cfg.MaxConnections, cfg.AcceptRate); err != nil {
		return nil, nil, err
	}
	a.server.ReclaimIdle(cfg.ReclaimIdle)

	built, err := sources.Build(cfg, a.self, a.mayAsk, log)
	if err != nil {
		return nil, nil, err
	}
	a.resolver = built.Resolver
	a.registries = built.Registries
	settings, err := a.settings(cfg)
	if err != nil {
		return nil, nil, err
	}
	a.tune(settings)
	needsEngine := len(a.modes) > 0
	for _, l := range cfg.Listeners {
		target, err := a.resolver.Parse(l.Target)
		if err != nil {
			return nil, nil, err
		}
		needsEngine = needsEngine || sources.AskEngine(target)
	}
	if needsEngine {
		a.docker = built.Docker
		a.runtimes.Ask, a.runtimes.Log = a.docker.Runtimes, log
	}
	if slices.ContainsFunc(a.modes, needsRules) {
		if a.rules, err = filter.Open(ctx, filter.Kind(cfg.Rules)); err != nil {
			return nil, nil, err
		}
		if mixed := filter.Mixed(a.rules); mixed != nil {
			log.Warn("this host uses both packet filters", "error", mixed, hint.Attr(mixed))
		}
	}
	if err := a.mustBeAllowed(); err != nil {
		return nil, nil, err
	}

	// The parts outlive ctx: connections that are drained still need them.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = a.resolver.Run(background) }) // returns nil, when background ends
	running.Go(func() { _ = a.balancer.Run(background) }) // likewise
	running.Go(func() { trim.Run(background, trim.DaemonHeap) })
	a.removals = newRemovals(background, a.resolver)
	if a.docker != nil {
		running.Go(func() { _ = a.docker.Run(background) }) // likewise
	}
	if len(cfg.Keeper) > 0 && os.Getpid() != 1 { // all of a container ends with its process 1
		a.keeper = keeper.New(cfg.Keeper, log)
		a.server.Keeper = a.keeper
		running.Go(func() { a.keeper.Run(background) })
	}
	return a, func() {
		cancel()
		a.removals.watching.Wait()
		running.Wait()
		built.Close()
	}, nil
}

// serve accepts until ctx ends and then takes everything down.
func (a *agent) serve(ctx context.Context, hooks Hooks) error {
	if err := a.somethingToDo(a.cfg); err != nil {
		return err
	}
	if err := a.openRunDir(); err != nil {
		return err
	}
	if a.keeper != nil {
		a.keeper.ClaimIn(a.dir)
	}
	if err := a.openShelf(ctx); err != nil {
		return err
	}
	defer a.shelf.manager.Close()
	session, err := a.takeOver(ctx)
	if err != nil {
		return err
	}
	signalled := ctx
	// A context of its own, so that an error below ends what was started above, and that who
	// is taking over has time for that.
	ctx, cancel := context.WithCancel(context.WithoutCancel(signalled))
	defer cancel()
	defer context.AfterFunc(signalled, func() {
		a.awaitSuccessor(ctx, hooks.Hurry)
		cancel()
	})()
	defer a.staying.RemoveUnneeded()
	unlock, err := a.takeLock(ctx)
	if err == nil {
		defer unlock()
		if err = a.serveListeners(ctx); err == nil {
			err = a.startModes(ctx)
		}
	}
	// Following has an end of its own: a new daemon has no use for our view of things.
	watching, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	following := make(chan struct{})
	if err == nil {
		go a.follow(ctx, watching, following)
		if session != nil {
			err = a.adopt(ctx, session)
		}
	} else {
		close(following)
	}
	if err != nil {
		if session.Gone() {
			err = fmt.Errorf("%w: %w", handover.ErrGone, err)
		}
		session.GiveUp(err)
		cancel()
		<-following
		a.takeDown(func() {})
		return err
	}
	closeControl, stopControl := a.serveControl(ctx)
	defer stopControl()
	succeeding := a.succeed(ctx, session)
	defer succeeding.Wait()
	var clearing sync.WaitGroup
	defer clearing.Wait()
	reloading := a.startReloads(ctx)
	defer reloading.Wait()
	d := a.serveOn(ctx, func() {
		if a.succeeding && session == nil {
			a.log.Info("the old daemon has ended; serving in its place")
		}
		a.log.Info("ready", "modes", a.modes, "listeners", len(a.cfg.Listeners))
		a.shelf.ready(session != nil)
		a.clearStale(watching, &clearing) // nobody waits for it, so it takes nothing from those who do
		if hooks.Ready != nil {
			hooks.Ready()
		}
	})
	if d != nil {
		a.endReloads()
		stopFollowing()
		<-following
		clearing.Wait()
		a.leave(d)
		cancel()
		closeControl()
		unlock()
		a.finish(signalled, hooks.Hurry)
		return nil
	}

	reloading.Wait() // or it might open a listener behind our back
	a.shelf.stopping()
	a.log.Info("stopping", "drain_timeout", a.tuned().cfg.DrainTimeout.String())
	<-following
	clearing.Wait()
	a.takeDown(func() {
		drain, cancel := context.WithDeadline(context.WithoutCancel(ctx), a.deadline())
		defer cancel()
		defer closing(hooks.Hurry, cancel)()
		a.server.Drain(drain)
	})
	a.log.Info("stopped")
	return nil
}

// takeDown takes everything down in order, with drain between. ctx of serve has ended.
func (a *agent) takeDown(drain func()) {
	for _, m := range a.running {
		m.unhook()
	}
	a.accepting.Wait()
	drain()
	if a.owns() && a.othersDrain() {
		a.log.Warn("the chains stay, unhooked, for the connections of a daemon that has handed over; the last of them to end removes them")
		return
	}
	for _, m := range a.running {
		m.release()
	}
	a.staying.Say()
}

// mode is one way in which containers' connections get to us. Its methods are
// called from one goroutine.
type mode interface {
	// update makes it follow table. It does not wait for the work to be done.
	update(ctx context.Context, table *identity.Table)
	// unhook stops new connections from being redirected and accepted.
	unhook()
	// release removes what unhook left for the connections that were carried on.
	release()

	// adopted returns when everything is served that the daemon before us served. Its
	// update has been called.
	adopted(ctx context.Context) error
	// leave stops all work on rules and sockets, for another daemon to go on with it, and
	// returns when that is so. What is accepted is served. It is called instead of unhook.
	leave()
	// left lets go of what leave kept for the connections that were being routed.
	left()
	// gone ends what leave has begun for the connections that were carried on.
	gone()
}

// startModes starts what a.modes names.
func (a *agent) startModes(ctx context.Context) error {
	for _, name := range a.modes {
		switch name {
		case config.Redirect, config.Listen:
			as := newAttachments(a, name)
			if name == config.Redirect {
				as.newcomers.start(ctx)
			}
			a.running = append(a.running, as)
		case config.Host:
			h, err := a.startHost(ctx)
			if err != nil {
				return err
			}
			a.running = append(a.running, h)
		case config.Link:
			l, err := a.startLink(ctx)
			if err != nil {
				return err
			}
			a.running = append(a.running, l)
		}
	}
	return nil
}

// needsRules reports whether m redirects; mode listen does without iptables.
func needsRules(m config.Mode) bool { return m != config.Listen }

// effectiveModes resolves auto.
func effectiveModes(modes []config.Mode, inContainer, canEnter bool, log *slog.Logger) []config.Mode {
	if !slices.Contains(modes, config.Auto) {
		return modes
	}
	switch {
	case !inContainer:
		return []config.Mode{config.Redirect}
	case canEnter:
		return []config.Mode{config.Link, config.Redirect}
	}
	log.Info("serving links only: entering other containers' network namespaces needs more privileges",
		"hint", "for mode redirect see docs/modes.md, or run on the host")
	return []config.Mode{config.Link}
}

// enterable reports whether we may enter other network namespaces and set rules
// there.
func enterable(have privilege.Set) bool {
	return len(privilege.Missing(config.Redirect, privilege.Circumstances{}, have)) == 0
}

// mustBeAllowed refuses modes that this process lacks a capability for, and names
// it.
func (a *agent) mustBeAllowed() error {
	for _, m := range a.modes {
		missing := privilege.Missing(m, a.circumstances(), a.have)
		if len(missing) == 0 || m == config.Link && a.cfg.RulesByOthers {
			continue
		}
		return hint.Errorf(privilege.Hint(missing), "mode %s lacks the capability %s", m, strings.Join(missing, ", "))
	}
	return nil
}

// mayGuard says which capability the guard of modes host and link lacks. Without one
// of them the table might still be made, and cut off whoever it cannot bind.
func (a *agent) mayGuard() error {
	missing := privilege.MissingForGuard(a.circumstances(), a.have)
	if len(missing) == 0 {
		return nil
	}
	return hint.Errorf(privilege.Hint(missing), "the guard lacks the capability %s", strings.Join(missing, ", "))
}

func (a *agent) circumstances() privilege.Circumstances {
	return privilege.Circumstances{
		Legacy:      a.rules != nil && a.rules.Variant() == netrules.IPTablesLegacy,
		ThroughProc: !netns.EngineFolderVisible(),
	}
}
