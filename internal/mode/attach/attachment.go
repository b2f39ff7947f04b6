package attach

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/internal/onclose"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/reconcile"
	"github.com/ambassadord/ambassadord/internal/refusal"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

// attachment is what the daemon has in one container's network namespace: a listening
// socket for each loopback address and the rules that redirect to it. One
// goroutine, run, works on it.
type attachment struct {
	slots   *ruleslots.Slots
	desired atomic.Pointer[identity.Namespace]
	known   route.Cache[uint16] // of desired
	changed chan struct{}       // holds a token when desired has been replaced
	ending  chan struct{}       // closed by end
	endOnce sync.Once
	leaving chan struct{} // closed by leave
	alive   atomic.Bool   // whether the namespace outlives us, so that its rules must go

	looking     context.Context // ends after ending or leaving is closed: run's loop
	stopLooking context.CancelFunc

	settled chan struct{} // closed when the namespace is as desired for the first time
	// early had the namespace before it was known whose it is; nil if none had.
	early *earlyNamespace

	// What follows belongs to run, and after it to release.
	namespaceSockets
	rules    *filter.Maintainer
	unlisted filter.Unlisted
	direct   map[netip.AddrPort]context.CancelFunc // the sockets of mode listen
	unpinned bool                                  // and said so
	logged   string                                // the last failure that was logged
	attached bool
	watch    changeWatch
	refusals *refusal.Early
	took     time.Duration  // the last look, once it was its turn
	saying   sync.WaitGroup // what it means which runtime the container has

	redirects earlyRedirects
	offered   offered
	conceded  concessions
	// inside is holding.ns, for routing goroutines; run sets it before the first connection.
	inside *netns.Namespace
}

func newAttachment(m *Mode, n *identity.Namespace) *attachment {
	at := &attachment{
		slots:            m.slots,
		changed:          make(chan struct{}, 1),
		ending:           make(chan struct{}),
		leaving:          make(chan struct{}),
		settled:          make(chan struct{}),
		namespaceSockets: newSockets(m.Config),
		rules:            filter.NewMaintainer(m.Rules),
		refusals:         refusal.New(m.Targets, m.Log),
		direct:           map[netip.AddrPort]context.CancelFunc{},
	}
	at.looking, at.stopLooking = context.WithCancel(context.Background()) // the daemon's may end long before
	at.desired.Store(n)
	at.redirects.wanted = func() []netrules.Port { return at.portsFor(at.desired.Load()) }
	return at
}

// same reports whether n is the namespace that at is in.
func (at *attachment) same(n *identity.Namespace) bool {
	old := at.desired.Load().Owner
	return old.SandboxKey == n.Owner.SandboxKey && old.PID == n.Owner.PID
}

// follow replaces what is declared. A namespace that has not changed costs nothing: every
// event of any container comes by here. It reports whether a container
// may be coming that dials before run gets to it.
func (at *attachment) follow(n *identity.Namespace) (hurry bool) {
	if at.desired.Load().Equal(n) {
		return false
	}
	at.desired.Store(n)
	select {
	case at.changed <- struct{}{}:
	default:
	}
	return len(n.Coming) > 0 && at.Name == config.Redirect
}

// offer has run go on with made, which was prepared in the namespace after all. It reports
// whether run will.
func (at *attachment) offer(made *preparer.Made) bool {
	if at.Name != config.Redirect || !at.offered.put(made) {
		return false
	}
	select {
	case at.changed <- struct{}{}:
	default:
	}
	return true
}

// end makes run stop. alive says whether the namespace lives on: the rules of a
// dead container go with it.
func (at *attachment) end(alive bool) {
	at.endOnce.Do(func() {
		at.alive.Store(alive)
		close(at.ending)
		at.stopLooking()
	})
}

// leave makes run stop, and leave everything as it is: another daemon goes on. It is called once.
func (at *attachment) leave() {
	close(at.leaving)
	at.stopLooking()
}

// run keeps the namespace as desired until end: it tries again after a failure,
// and repairs what others have done to our rules when the kernel tells of it, or else at
// an interval.
func (at *attachment) run(ctx context.Context) {
	if at.early != nil {
		at.holding = at.early.handOver()
		at.inside = at.ns
		at.redirects.take(&at.early.redirects)
	}
	defer func() {
		for _, made := range at.offered.take(true) {
			made.Close()
		}
	}()
	if !at.Turn.Await(ctx, at.ending) {
		at.detach()
		return
	}
	if at.early != nil && at.ns != nil {
		at.borrow(ctx, at)
	}
	defer at.saying.Wait()
	defer at.watch.close() // it would keep the namespace alive
	defer at.refusals.Close()
	failures := 0
	reconcile.Loop(at.looking, reconcile.Options{
		Settings: at.Settings, Interval: func() time.Duration { return at.watch.interval(at.Settings.Load().Config.RepairInterval) }, Retry: true, Kicked: at.changed,
		Changed: func() <-chan struct{} { return at.watch.changed }, Rest: func() time.Duration { return rest(at.took) },
		Untouched: func() bool { return at.watch.changed != nil && at.untouched(ctx) },
	}, func(bool) error {
		err := at.look(ctx)
		if err != nil {
			failures++
			at.logFailure(err, failures)
			if failures > 1 { // one alone may be of a container that ended while we entered it
				at.Attached.Note(at.desired.Load().Owner, at.Name, err)
			}
		} else {
			failures, at.logged = 0, ""
			at.Attached.Note(at.desired.Load().Owner, at.Name, nil)
		}
		return err
	})
	select {
	case <-at.ending:
		at.detach()
	default: // another daemon goes on
	}
	at.redirects.end()
}

// look brings the namespace to what is desired, when it is its turn, and notes how long
// that took.
func (at *attachment) look(ctx context.Context) error {
	if err := at.open(ctx); err != nil {
		return err
	}
	for _, made := range at.offered.take(false) {
		at.adoptMade(ctx, made, at.earlyRouter(made.Listen))
		if at.attached { // what else is dialled is let through, and is not to come back
			at.surplus.drop()
		}
	}
	at.hasten(ctx)
	defer at.turn()()
	began := time.Now()
	defer func() { at.took = time.Since(began) }()
	return at.apply(ctx)
}

// turn waits for its turn to work on the namespace.
func (at *attachment) turn() (leave func()) {
	if at.Name == config.Listen { // there are no rules
		return at.slots.Enter(nil)
	}
	if at.attached {
		return at.slots.EnterAgain(at.ns)
	}
	return at.slots.Enter(at.ns)
}

// open opens the namespace, unless it is open.
func (at *attachment) open(ctx context.Context) error {
	if at.ns != nil {
		return nil
	}
	ns, err := at.Engine.OpenNamespace(ctx, at.desired.Load().Owner)
	if err != nil {
		return err
	}
	at.ns, at.inside = ns, ns
	return nil
}

// logFailure says each failure once, and only when it lasts: a container that
// died while we entered it is none.
func (at *attachment) logFailure(err error, failures int) {
	if failures < 3 || err.Error() == at.logged {
		return
	}
	at.logged = err.Error()
	owner := at.desired.Load().Owner
	at.Log.Error("cannot attach to a container; trying again", "client", owner.Name, "id", owner.ShortID(),
		"error", err, hint.Attr(err))
}

// apply brings the namespace to what is desired. It may be called again and
// again.
func (at *attachment) apply(ctx context.Context) error {
	n := at.desired.Load()
	if err := at.open(ctx); err != nil {
		return err
	}
	at.watchChanges(ctx)
	families, err := Families(at.ns)
	if err != nil {
		return err
	}
	ports := at.portsFor(n)
	if at.Name == config.Listen {
		err = at.listenDirectly(ctx, n, families)
	} else {
		err = at.redirect(ctx, families, ports)
	}
	if err != nil {
		return err
	}
	at.arrived(ports)
	at.giveBack()
	if !at.attached {
		at.attached = true
		close(at.settled)
		at.Log.Info("attached", "client", n.Owner.Name, "id", n.Owner.ShortID(), "mode", at.Name,
			"ports", portsOf(ports), "listen", at.listen, "families", netrules.FamilyNames(families))
		// Not in its turn, which others wait for.
		at.saying.Go(func() { at.sayOwnStack(ctx, n) })
	}
	at.refusals.Update(ctx, at.ns, n)
	return nil
}

// sayOwnStack says of a container that has just been attached that its dials will not come. It
// may take as long as the engine takes to answer, and is given up when at ends.
func (at *attachment) sayOwnStack(ctx context.Context, n *identity.Namespace) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer onclose.Call(at.ending, stop)()
	defer onclose.Call(at.leaving, stop)()
	for _, client := range n.Clients {
		c := client.Container
		kind := at.Runtimes.OwnStack(ctx, c.Runtime)
		if ctx.Err() != nil {
			return
		}
		if kind == "" || len(client.Bindings.Ports()) == 0 {
			continue
		}
		err := ociruntime.OwnStackError(c.Runtime, kind, string(at.Name))
		at.Log.Warn("what a container dials at localhost does not get here, and is refused", "client", c.Name, "id", c.ShortID(),
			"runtime", c.Runtime, "error", err, hint.Attr(err))
	}
}

// watchChanges has the kernel tell of changes, if it tells of all that there may be. It is called
// before a look, so that what comes between the two is not missed.
func (at *attachment) watchChanges(ctx context.Context) {
	if at.Name == config.Redirect && !at.Rules.Told() {
		return
	}
	if err := at.watch.begin(ctx, at.ns); err != nil {
		owner := at.desired.Load().Owner
		at.Log.Warn("changes of a container's rules are seen at the repair interval only",
			"client", owner.Name, "id", owner.ShortID(), "error", err)
	}
}

// untouched reports whether the rules are those that were found in order: no change was told of,
// and nothing else has to be asked. In mode listen there are none.
func (at *attachment) untouched(ctx context.Context) bool {
	if at.Name == config.Listen {
		return false
	}
	defer at.turn()()
	return at.rules.Untouched(ctx, at.ns)
}

// redirect is mode redirect: a socket for each family, and the rules that lead
// the declared ports to it.
func (at *attachment) redirect(ctx context.Context, served []netrules.Family, ports []netrules.Port) error {
	if err := at.accept(ctx, served); err != nil {
		return err
	}
	return at.applyRules(ctx, served, ports)
}

// Route is that of this namespace's connections: insiders has refused those from elsewhere.
func (at *attachment) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := origdst.Of(conn)
	if err != nil {
		return proxy.Route{Client: route.ClientOf(at.desired.Load().Clients[0])}, proxy.Fail(proxy.NoBinding, err)
	}
	return at.route(ctx, route.Flow{From: route.PeerOf(conn), To: dst})
}

// RouteNow is Route for the ports that are declared.
func (at *attachment) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	dst, err := origdst.OfSocket(conn.FD, conn.Source.Addr())
	if err != nil {
		return nil, nil
	}
	return at.Routes.ForNow(&at.known, at.desired.Load(), route.Flow{From: conn.Source, To: dst})
}

// detach stops redirecting and accepting. The rest of the rules stays until
// release: connections that are being carried need it.
func (at *attachment) detach() {
	if at.ns == nil {
		return
	}
	remove := at.alive.Load() && !at.Settings.Load().Config.KeepRules && at.Turn.Ours()
	if remove {
		at.takeDown(filter.Rules.Unhook)
	}
	at.redirects.end()
	at.stopListening()
	for _, cancel := range at.direct {
		cancel()
	}
	at.surplus.end()
	if !remove {
		at.close()
	}
}

// release removes the rules, but for those that connections need which others carry, and lets
// go of the namespace.
func (at *attachment) release() {
	if at.ns == nil {
		return
	}
	defer at.close()
	if at.Name == config.Redirect && at.MustStay(at.ns) {
		at.takeDown(filter.Rules.Unhook)
		return
	}
	at.takeDown(func(rules filter.Rules, ctx context.Context, ns *netns.Namespace) error {
		_, err := rules.Remove(ctx, ns)
		return err
	})
}

// takeDown takes rules down, if there can be any: mode listen has none. The agent's context
// has ended by then; every step bounds itself.
func (at *attachment) takeDown(step func(filter.Rules, context.Context, *netns.Namespace) error) {
	if at.Rules == nil || len(at.listening) == 0 {
		return
	}
	defer at.turn()()
	if err := step(at.Rules, context.Background(), at.ns); err != nil {
		at.Log.Error("cannot remove the rules of a container", "client", at.desired.Load().Owner.Name,
			"error", err, "hint", "run: ambassadord rules remove")
	}
}
