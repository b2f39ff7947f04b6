package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

const (
	// ownerPatience is how long an accepted connection waits for the engine to say
	// whose it is, while that is there: a container that runs is known within milliseconds.
	ownerPatience = 5 * time.Second
	// unclaimedPatience bounds how long we stay in a namespace that is nobody's
	// while no connection waits, and the engine is there: it is setting it up.
	unclaimedPatience = time.Minute
	// mountedInterval is how often to see whether such a namespace still is.
	mountedInterval = 100 * time.Millisecond
)

// newcomer is our presence in a network namespace before it is known whose that
// is. One goroutine, run, works on it.
type newcomer struct {
	path  string
	lanes *ruleslots.Slots

	mu    sync.Mutex
	ports []netrules.Port // declared by anybody who may be the owner
	more  chan struct{}   // holds a token when there are more ports

	once     sync.Once
	decided  chan struct{} // closed by decide
	verdict  verdict       // valid after decided
	wanted   chan struct{} // closed by handOver
	leaving  chan struct{} // closed when another daemon goes on
	unhooked chan struct{} // closed when nothing is redirected any more, unless it was claimed
	done     chan struct{} // closed when run has ended
	guests   *guests

	ahead   ahead
	offered offered
	made    *preparer.Made // what is there already when run begins; nil if nothing is

	// What follows belongs to run, and after it to whoever the holding is handed over to.
	presence
	applied    bool // there may be rules beside those in advance
	leftBehind bool // another daemon goes on with it
	// inside is holding.ns, for dialling; it is set before the first connection.
	inside *netns.Namespace
}

// verdict is what becomes of a newcomer. The zero value is: nobody has claimed it.
type verdict struct {
	owner  *attachment  // that will serve it; nil if none will
	client proxy.Client // whose it is, if that is known and it declares nothing
	dead   bool         // the namespace is not mounted any more
}

func newNewcomer(ns *newcomers, where string, ports []netrules.Port, made *preparer.Made) *newcomer {
	nc := &newcomer{
		path:     where,
		lanes:    ns.lanes,
		ports:    ports,
		made:     made,
		more:     make(chan struct{}, 1),
		decided:  make(chan struct{}),
		wanted:   make(chan struct{}),
		leaving:  make(chan struct{}),
		unhooked: make(chan struct{}),
		done:     make(chan struct{}),
		guests:   newGuests(),
		presence: newPresence(ns.agent),
	}
	nc.ahead.wanted = nc.declared
	if made != nil {
		nc.ahead.rules = made.Rules
	}
	return nc
}

// decide says what becomes of it. Only the first verdict counts.
func (nc *newcomer) decide(v verdict) {
	nc.once.Do(func() {
		nc.verdict = v
		close(nc.decided)
	})
}

// widen has those of ports prepared as well that are not yet, and reports whether there are
// some.
func (nc *newcomer) widen(ports []netrules.Port) bool {
	nc.mu.Lock()
	defer nc.mu.Unlock()
	known := map[uint16]bool{}
	for _, p := range nc.ports {
		known[p.Number] = true
	}
	all := slices.Clone(nc.ports)
	for _, p := range ports {
		if !known[p.Number] && len(all) < 2*maxEarly { // who came first has a place
			all = append(all, p)
		}
	}
	if len(all) == len(nc.ports) {
		return false
	}
	nc.ports = all
	nc.wake()
	return true
}

// vain reports whether it is kept although nobody declares anything.
func (nc *newcomer) vain() bool {
	select {
	case <-nc.decided:
		return false
	default:
		return len(nc.declared()) == 0
	}
}

// offer has run go on with made, which was prepared beside it. It reports whether run will.
func (nc *newcomer) offer(made *preparer.Made) bool {
	if !nc.offered.put(made) {
		return false
	}
	nc.wake()
	return true
}

// wake has run look what there is to do.
func (nc *newcomer) wake() {
	select {
	case nc.more <- struct{}{}:
	default:
	}
}

// takeOffered serves what was prepared beside us. If last, no more is.
func (nc *newcomer) takeOffered(ctx context.Context, last bool) {
	for _, made := range nc.offered.take(last) {
		if nc.ns == nil {
			made.Close()
			continue
		}
		nc.adoptMade(ctx, made, nc)
	}
}

// declared are the ports to prepare.
func (nc *newcomer) declared() []netrules.Port {
	nc.mu.Lock()
	defer nc.mu.Unlock()
	return nc.ports // which is replaced, never changed
}

// handOver returns what was prepared. If the claim came too late, that is at most
// the open namespace, with a chain of ours in it that an Apply will replace. It is
// called once, by the attachment that has claimed it.
func (nc *newcomer) handOver() holding {
	close(nc.wanted)
	<-nc.done
	if nc.verdict.owner != nil {
		return nc.holding
	}
	late := newHolding()
	late.ns, late.surplus = nc.ns, nc.surplus
	return late
}

// run prepares the namespace and waits for the verdict. Whatever it is not handed
// over with it undoes.
func (nc *newcomer) run(ctx context.Context) {
	defer close(nc.done)
	if err := nc.prepare(ctx); err != nil {
		// No harm is done: the attachment, if there will be one, tries again and
		// says what is wrong.
		nc.agent.log.Debug("a new network namespace was not prepared", "namespace", nc.path, "error", err)
		nc.decide(verdict{})
	}
	for nc.await(ctx) {
		nc.takeOffered(ctx, false)
		if err := nc.redirect(ctx); err != nil { // what is prepared already stays so
			nc.agent.log.Debug("a new network namespace was not prepared for more ports", "namespace", nc.path, "error", err)
		}
	}
	nc.takeOffered(ctx, true)
	switch {
	case nc.leftBehind:
		if len(nc.ahead.lacks()) > 0 { // the rules in advance go with us
			if err := nc.redirect(ctx); err != nil {
				nc.agent.log.Debug("a new network namespace was not prepared for another daemon", "namespace", nc.path, "error", err)
			}
		}
		nc.ahead.end()
		nc.surplus.drop()
		close(nc.unhooked) // which the other daemon does
	case nc.verdict.owner == nil:
		nc.letGo()
	}
}

// await returns when there is a verdict, and makes one if nobody else does. It
// reports whether there are more ports before that.
func (nc *newcomer) await(ctx context.Context) (more bool) {
	unclaimed := time.NewTimer(unclaimedPatience)
	defer unclaimed.Stop()
	look := time.NewTicker(mountedInterval)
	defer look.Stop()
	for {
		select {
		case <-nc.decided:
			return false
		case <-nc.leaving:
			nc.leftBehind = true
			return false
		case <-nc.more:
			return true
		case <-ctx.Done():
			nc.decide(verdict{})
		case <-unclaimed.C:
			if nc.agent.away() != nil { // it may be somebody's all the same
				unclaimed.Reset(unclaimedPatience)
				continue
			}
			nc.decide(verdict{})
		case <-look.C:
			if !sandbox.Mounted(nc.path) {
				nc.decide(verdict{dead: true})
			}
		}
	}
}

// Route is that of the sockets that were opened before the owner was known,
// also after that.
func (nc *newcomer) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := proxy.OriginalDst(conn)
	if err != nil {
		return proxy.Route{}, proxy.Fail(proxy.NoBinding, err)
	}
	source := peerOf(conn)
	leave := func() { nc.guests.leave(source) }
	if !nc.guests.enter(source) {
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.NoBinding, errors.New("the container declares nothing"))
	}
	known, err := nc.awaitVerdict(ctx, dst.Port())
	if err != nil {
		leave()
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.UnknownClient, err)
	}
	if ctx.Err() == nil && nc.verdict.dead {
		leave() // there is nobody any more whom it could have been meant for
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.ClientGone, errors.New("the container ended before the engine said whose it was"))
	}
	if ctx.Err() == nil && nc.verdict.owner != nil {
		leave() // the chain stays, whatever becomes of this connection
		route, err := nc.routeOwned(ctx, nc.verdict.owner, way{source, dst})
		route.Known = known
		return route, err
	}
	select {
	case <-nc.unhooked:
	case <-ctx.Done():
		leave()
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.NoBinding, context.Cause(ctx))
	}
	route, err := nc.through(nc.verdict.client, dst)
	if err != nil {
		leave()
		return route, err
	}
	route.Ended = leave
	return route, nil
}

// awaitVerdict waits until it is decided whose the namespace is, or ctx ends. While the engine
// is there, and has yet to say of nobody what has become of him, it decides after some time that
// it is nobody's. While it is not, the connection to port is held for as long as that may
// take, and the error says that this was not long enough. known is when the engine was back, if
// it was away.
func (nc *newcomer) awaitVerdict(ctx context.Context, port uint16) (known time.Time, err error) {
	patience := time.NewTimer(ownerPatience)
	defer patience.Stop()
	var bound <-chan time.Time // while the engine is away, or has been
	doubts := 0
	for {
		changed := nc.agent.engineChanged()
		away, left := nc.agent.away(), nc.agent.doubts()
		if away != nil || left != doubts { // it has something to say
			patience.Reset(ownerPatience)
			doubts = left
		}
		if away != nil && bound == nil {
			bound = time.After(nc.agent.holdBound(port))
		}
		select {
		case <-nc.decided:
			if bound != nil {
				known = time.Now()
			}
			return known, nil
		case <-ctx.Done():
			return known, nil
		case <-changed:
		case <-patience.C:
			if away == nil {
				nc.decide(verdict{})
			}
		case <-bound:
			if away == nil {
				bound = nil
				continue
			}
			return known, hint.Wrap(fmt.Errorf("the engine has not said whose network namespace this is, within what the option timeout allows: %w", away), hint.Of(away))
		}
	}
}

// RouteNow is Route once there is an owner who declares the port.
func (nc *newcomer) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	select {
	case <-nc.decided:
	default:
		return nil, nil
	}
	if nc.verdict.owner == nil {
		return nil, nil
	}
	return nc.verdict.owner.RouteNow(conn)
}

// routeOwned routes a connection of the container that at serves.
func (nc *newcomer) routeOwned(ctx context.Context, at *attachment, w way) (proxy.Route, error) {
	n := at.desired.Load()
	client, _, declared := n.Lookup(w.to.Port())
	if declared {
		return nc.agent.routeFor(n, w)
	}
	if len(n.ComingFor(w.to.Port())) > 0 {
		return at.routeComing(ctx, n, w)
	}
	// It was caught by the rule for a declaration of somebody else's. Until the
	// rules are the owner's own, we would catch ourselves.
	select {
	case <-at.settled:
	case <-at.ending:
	case <-ctx.Done():
	}
	return nc.through(clientOf(client), w.to)
}

// through lets a connection go where it was meant to: to the container itself. The
// client has been connected already, so it does not go on to the other address of
// localhost when nobody serves the first: that is done for it.
func (nc *newcomer) through(client proxy.Client, dst netip.AddrPort) (proxy.Route, error) {
	route := proxy.Route{Client: client, Port: dst.Port()}
	if dst.Port() == nc.listen {
		return route, proxy.Fail(proxy.NoBinding, hint.Errorf("dial the port that is declared", "it dialled our own socket"))
	}
	itself := []proxy.Endpoint{{Addr: dst, Name: "the container itself"}}
	if other, ok := nc.otherLocalhost(dst); ok {
		itself = append(itself, proxy.Endpoint{Addr: other, Name: itself[0].Name})
	}
	route.Endpoints = proxy.InOrder(itself...)
	route.Dial = nc.inside.DialTCP
	who := client.ID
	if who == "" {
		who = nc.path
	}
	route.Share = nc.agent.places(who, client.Name)
	return route, nil
}

// otherLocalhost is the other address by which a client that dialled dst may have meant
// localhost; false if there is none in the namespace.
func (nc *newcomer) otherLocalhost(dst netip.AddrPort) (netip.AddrPort, bool) {
	other := loopback(netrules.IPv4)
	switch dst.Addr() {
	case loopback(netrules.IPv6):
	case loopback(netrules.IPv4):
		other = loopback(netrules.IPv6)
		if there, err := nc.inside.HasLoopback6(); err != nil || !there {
			return netip.AddrPort{}, false
		}
	default:
		return netip.AddrPort{}, false // of 127.0.0.0/8, but never localhost
	}
	return netip.AddrPortFrom(other, dst.Port()), true
}
