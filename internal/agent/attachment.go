package agent

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
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/refusal"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

// verified is what was found in order, and the mark of the namespace's rules then. The zero
// value is nothing.
type verified struct {
	chains string
	mark   uint64 // filter.Rules.Mark
}

// attachment is our presence in one container's network namespace: a listening
// socket for each loopback address and the rules that redirect to it. One
// goroutine, run, works on it.
type attachment struct {
	mode    config.Mode // Redirect or Listen
	lanes   *ruleslots.Slots
	desired atomic.Pointer[identity.Namespace]
	known   prompts[uint16] // of desired
	changed chan struct{}   // holds a token when desired has been replaced
	ending  chan struct{}   // closed by end
	endOnce sync.Once
	leaving chan struct{} // closed when another daemon goes on
	alive   atomic.Bool   // whether the namespace outlives us, so that its rules must go

	settled chan struct{} // closed when the namespace is as desired for the first time
	// newcomer had the namespace before it was known whose it is; nil if none had.
	newcomer *newcomer

	// What follows belongs to run, and after it to release.
	presence
	verified verified
	unlisted unlisted
	direct   map[netip.AddrPort]context.CancelFunc // the sockets of mode listen
	unpinned bool                                  // and said so
	logged   string                                // the last failure that was logged
	attached bool
	lookout  lookout
	refusals *refusal.Early
	saying   sync.WaitGroup // what it means which runtime the container has
	took     time.Duration  // the last look

	ahead    ahead
	offered  offered
	conceded concessions
	// inside is holding.ns, for those who route; it is set before the first connection.
	inside *netns.Namespace
}

func newAttachment(as *attachments, n *identity.Namespace) *attachment {
	at := &attachment{
		mode:     as.mode,
		lanes:    as.lanes,
		changed:  make(chan struct{}, 1),
		ending:   make(chan struct{}),
		leaving:  make(chan struct{}),
		settled:  make(chan struct{}),
		presence: newPresence(as.agent),
		refusals: refusal.New(as.agent.resolver, as.agent.log),
		direct:   map[netip.AddrPort]context.CancelFunc{},
	}
	at.desired.Store(n)
	at.ahead.wanted = func() []netrules.Port { return at.portsFor(at.desired.Load()) }
	return at
}

// same reports whether n is the namespace that at is in.
func (at *attachment) same(n *identity.Namespace) bool {
	old := at.desired.Load().Owner
	return old.SandboxKey == n.Owner.SandboxKey && old.PID == n.Owner.PID
}

// follow replaces what is declared. What has not changed costs nothing: every
// event of any container comes by here. It reports whether somebody may be coming who dials
// before run gets to it.
func (at *attachment) follow(n *identity.Namespace) (hurry bool) {
	if at.desired.Load().Equal(n) {
		return false
	}
	at.desired.Store(n)
	select {
	case at.changed <- struct{}{}:
	default:
	}
	return len(n.Coming) > 0 && at.mode == config.Redirect
}

// offer has run go on with made, which was prepared in the namespace after all. It reports
// whether run will.
func (at *attachment) offer(made *preparer.Made) bool {
	if at.mode != config.Redirect || !at.offered.put(made) {
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
	})
}

// run keeps the namespace as desired until end: it tries again after a failure,
// and repairs what others have done to our rules when the kernel tells of it, or else at
// an interval.
func (at *attachment) run(ctx context.Context) {
	if at.newcomer != nil {
		at.holding = at.newcomer.handOver()
		at.inside = at.ns
		at.ahead.take(&at.newcomer.ahead)
	}
	defer func() {
		for _, made := range at.offered.take(true) {
			made.Close()
		}
	}()
	if !at.agent.own(ctx, at.ending) {
		at.detach()
		return
	}
	if at.newcomer != nil && at.ns != nil {
		at.borrow(ctx, at)
	}
	defer at.saying.Wait()
	defer at.lookout.close() // it would keep the namespace alive
	defer at.refusals.Close()
	const firstPause, longestPause = 50 * time.Millisecond, 5 * time.Second
	pause, failures := firstPause, 0
	for {
		err := at.look(ctx)
		var retry <-chan time.Time
		if err != nil {
			failures++
			at.logFailure(err, failures)
			retry = time.After(pause)
			pause = min(2*pause, longestPause)
		} else {
			pause, failures, at.logged = firstPause, 0, ""
		}
		if !at.await(ctx, retry) {
			at.ahead.end()
			return
		}
	}
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
	if at.mode == config.Listen { // there are no rules
		return at.lanes.Enter(nil)
	}
	if at.attached {
		return at.lanes.EnterAgain(at.ns)
	}
	return at.lanes.Enter(at.ns)
}

// open opens the namespace, unless it is open.
func (at *attachment) open(ctx context.Context) error {
	if at.ns != nil {
		return nil
	}
	ns, err := at.agent.openNamespace(ctx, at.desired.Load())
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
	at.agent.log.Error("cannot attach to a container; trying again", "client", owner.Name, "id", owner.ShortID(),
		"error", err, hint.Attr(err))
}

// apply brings the namespace to what is desired. It may be called again and
// again.
func (at *attachment) apply(ctx context.Context) error {
	n := at.desired.Load()
	if err := at.open(ctx); err != nil {
		return err
	}
	at.lookOut(ctx)
	families, err := familiesOf(at.ns)
	if err != nil {
		return err
	}
	ports := at.portsFor(n)
	if at.mode == config.Listen {
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
		at.agent.log.Info("attached", "client", n.Owner.Name, "id", n.Owner.ShortID(), "mode", at.mode,
			"ports", portsOf(ports), "listen", at.listen, "families", familyNames(families))
		// Not in its turn, which others wait for.
		at.saying.Go(func() { at.sayOwnStack(ctx, n) })
	}
	at.refusals.Update(ctx, at.ns, n)
	return nil
}

// redirect is mode redirect: a socket for each family, and the rules that lead
// the declared ports to it.
func (at *attachment) redirect(ctx context.Context, served []netrules.Family, ports []netrules.Port) error {
	if err := at.accept(ctx, served); err != nil {
		return err
	}
	return at.applyRules(ctx, served, ports)
}

// listenAll opens the sockets of families, unless they are open.
func (at *attachment) listenAll(ctx context.Context, families []netrules.Family) error {
	for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
		if at.listening[f] == nil { // also where the engine has turned IPv6 off since
			at.inherit(ctx, f, at)
		}
	}
	for _, f := range families {
		if err := at.listenOn(ctx, f, at); err != nil {
			return err
		}
	}
	return nil
}

// applyRules redirects ports. When there are none any more, because a container
// that shared the namespace has left, the chain is only unhooked: emptying it
// would break the connections that came through it (see filter.Rules.Remove).
func (at *attachment) applyRules(ctx context.Context, served []netrules.Family, ports []netrules.Port) error {
	if len(ports) == 0 {
		at.verified = verified{}
		return at.agent.rules.Unhook(ctx, at.ns)
	}
	chains := redirectChains(served, at.listen, ports)
	now := verified{chains: chainsText(chains)}
	var applied filter.Applied
	var pinErr error
	err := at.ns.Visit(func(ns *netns.Namespace) (err error) {
		if at.unpin == nil {
			at.unpin, pinErr = at.agent.rules.Pin(ns)
		}
		if now.mark, err = at.agent.rules.Mark(ctx, ns); err != nil || at.verified == now {
			return err // or nobody has touched anything since we looked
		}
		if applied, err = at.agent.rules.Apply(ctx, ns, chains...); err != nil {
			at.verified = verified{}
		}
		return err
	})
	at.tellUnpinned(pinErr)
	if err != nil || at.verified == now {
		return err
	}
	owner := at.desired.Load().Owner
	for _, f := range served {
		at.unlisted.tell(at.agent.log, f, applied.Unlisted[f], "cannot list all rules of a container", "client", owner.Name, "id", owner.ShortID())
	}
	at.tellUnpinned(applied.Unpinned)
	switch {
	case len(applied.Changes) > 0 && at.verified.chains == now.chains:
		at.agent.log.Warn("repaired the rules of a container", "client", owner.Name, "id", owner.ShortID(),
			"families", familyNames(familiesIn(applied.Changes)), "changes", len(applied.Changes))
	case applied.Settled():
		at.verified = now
		return nil
	}
	if applied.Mark != 0 {
		at.verified = verified{chains: now.chains, mark: applied.Mark}
	}
	return nil
}

// tellUnpinned says once that connections of a container may break: it keeps us from what
// would hold them. What it declares is served all the same.
func (at *attachment) tellUnpinned(err error) {
	if err == nil || at.unpinned {
		return
	}
	at.unpinned = true
	owner := at.desired.Load().Owner
	at.agent.log.Warn("connections of a container break when somebody flushes its rules", "client", owner.Name, "id", owner.ShortID(),
		"error", err, hint.Attr(err))
}

// Route is that of this namespace's connections: whoever reaches its socket is inside.
func (at *attachment) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := proxy.OriginalDst(conn)
	if err != nil {
		return proxy.Route{Client: clientOf(at.desired.Load().Clients[0])}, proxy.Fail(proxy.NoBinding, err)
	}
	return at.route(ctx, way{peerOf(conn), dst})
}

// RouteNow is Route for the ports that are declared.
func (at *attachment) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	dst, err := proxy.OriginalDstOf(conn.FD, conn.Source.Addr())
	if err != nil {
		return nil, nil
	}
	return at.agent.promptFor(&at.known, at.desired.Load(), way{conn.Source, dst})
}

// detach stops redirecting and accepting. The rest of the rules stays until
// release: connections that are being carried need it.
func (at *attachment) detach() {
	if at.ns == nil {
		return
	}
	remove := at.alive.Load() && !at.agent.tuned().cfg.KeepRules && at.agent.owns()
	if remove {
		at.takeDown(filter.Rules.Unhook)
	}
	at.ahead.end()
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
	if at.mode == config.Redirect && at.agent.staying.MustStay(at.ns) {
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
	if at.agent.rules == nil || len(at.listening) == 0 {
		return
	}
	defer at.turn()()
	if err := step(at.agent.rules, context.Background(), at.ns); err != nil {
		at.agent.log.Error("cannot remove the rules of a container", "client", at.desired.Load().Owner.Name,
			"error", err, "hint", "run: ambassadord rules remove")
	}
}
