package attach

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
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

const (
	// OwnerPatience is how long an accepted connection waits for the engine to say
	// whose it is, while that is there: a container that runs is known within milliseconds.
	OwnerPatience = 5 * time.Second
	// unclaimedPatience bounds how long we stay in a namespace without a known owner
	// while no connection waits, and the engine is there: it is setting it up.
	unclaimedPatience = time.Minute
	// mountedInterval is how often to see whether such a namespace still is.
	mountedInterval = 100 * time.Millisecond
)

// earlyNamespace is what the daemon has in a network namespace before it is known whose that is:
// sockets, and rules for the ports of all containers that may be the owner. One goroutine, runEarly,
// works on it; earlylife.go has its states.
type earlyNamespace struct {
	path  string
	slots *ruleslots.Slots

	mu    sync.Mutex
	ports []netrules.Port // declared by all containers that may be the owner
	more  chan struct{}   // holds a token when there are more ports

	life     *earlyLife
	inFlight *inFlight

	redirects earlyRedirects
	offered   offered
	made      *preparer.Made // what is there already when runEarly begins; nil if nothing is

	// What follows belongs to runEarly, and after it to the attachment that holding is handed over to.
	namespaceSockets
	applied bool // there may be rules beside the early ones
	// inside is holding.ns, for dialling; runEarly sets it before the first connection.
	inside *netns.Namespace
}

func newEarlyNamespace(set *earlySet, where string, ports []netrules.Port, made *preparer.Made) *earlyNamespace {
	e := &earlyNamespace{
		path:             where,
		slots:            set.slots,
		ports:            ports,
		made:             made,
		more:             make(chan struct{}, 1),
		life:             newEarlyLife(),
		inFlight:         newInFlight(),
		namespaceSockets: newSockets(set.Config),
	}
	e.redirects.wanted = e.declared
	if made != nil {
		e.redirects.rules = made.Rules
	}
	return e
}

// widen has those of ports prepared as well that are not yet, and reports whether there are
// some.
func (e *earlyNamespace) widen(ports []netrules.Port) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := map[uint16]bool{}
	for _, p := range e.ports {
		known[p.Number] = true
	}
	all := slices.Clone(e.ports)
	for _, p := range ports {
		if !known[p.Number] && len(all) < 2*maxEarly { // those declared first have a place
			all = append(all, p)
		}
	}
	if len(all) == len(e.ports) {
		return false
	}
	e.ports = all
	e.wake()
	return true
}

// vain reports whether it is kept although no container declares anything.
func (e *earlyNamespace) vain() bool {
	select {
	case <-e.life.decided:
		return false
	default:
		return len(e.declared()) == 0
	}
}

// offer has runEarly go on with made, which was prepared beside it. It reports whether runEarly will.
func (e *earlyNamespace) offer(made *preparer.Made) bool {
	if !e.offered.put(made) {
		return false
	}
	e.wake()
	return true
}

// wake has runEarly look what there is to do.
func (e *earlyNamespace) wake() {
	select {
	case e.more <- struct{}{}:
	default:
	}
}

// declared are the ports to prepare.
func (e *earlyNamespace) declared() []netrules.Port {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ports // which is replaced, never changed
}

// handOver returns what was prepared. If the claim came too late, that is at most
// the open namespace, with a chain of ours in it that an Apply will replace. It is
// called once, by the attachment that has claimed it.
func (e *earlyNamespace) handOver() holding {
	e.life.on(wants)
	<-e.life.done
	if e.life.in(handedOver) {
		return e.holding
	}
	late := newHolding()
	late.ns, late.surplus = e.ns, e.surplus
	return late
}

// Route is that of the sockets that were opened before the owner was known,
// also after that.
func (e *earlyNamespace) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := origdst.Of(conn)
	if err != nil {
		return proxy.Route{}, proxy.Fail(proxy.NoBinding, err)
	}
	source := route.PeerOf(conn)
	leave := func() { e.inFlight.leave(source) }
	if !e.inFlight.enter(source) {
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.NoBinding, errors.New("the container declares nothing"))
	}
	known, err := e.awaitVerdict(ctx, dst.Port())
	if err != nil {
		leave()
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.UnknownClient, err)
	}
	if ctx.Err() == nil && e.life.verdict.dead {
		leave() // nothing is left in there that it could have been meant for
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.ClientGone, errors.New("the container ended before the engine said whose it was"))
	}
	if ctx.Err() == nil && e.life.verdict.owner != nil {
		leave() // the chain stays, whatever becomes of this connection
		route, err := e.routeOwned(ctx, e.life.verdict.owner, route.Flow{From: source, To: dst})
		route.Known = known
		return route, err
	}
	select {
	case <-e.life.unhooked:
	case <-ctx.Done():
		leave()
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.NoBinding, context.Cause(ctx))
	}
	route, err := e.through(e.life.verdict.client, dst)
	if err != nil {
		leave()
		return route, err
	}
	route.Ended = leave
	return route, nil
}

// awaitVerdict waits until it is decided whose the namespace is, or ctx ends. While the engine
// is there, and owes no word of a container, it decides after some time that the namespace has no
// owner. While it is not, the connection to port is held for as long as that may
// take, and the error says that this was not long enough. known is when the engine was back, if
// it was away.
func (e *earlyNamespace) awaitVerdict(ctx context.Context, port uint16) (known time.Time, err error) {
	patience := time.NewTimer(OwnerPatience)
	defer patience.Stop()
	var bound <-chan time.Time // while the engine is away, or has been
	unconfirmed := 0
	for {
		changed := e.Hold.Changed()
		away, left := e.Hold.Away(), e.Hold.Unconfirmed()
		if away != nil || left != unconfirmed { // it has something to say
			patience.Reset(OwnerPatience)
			unconfirmed = left
		}
		if away != nil && bound == nil {
			bound = time.After(e.Hold.Bound(port))
		}
		select {
		case <-e.life.decided:
			if bound != nil {
				known = time.Now()
			}
			return known, nil
		case <-ctx.Done():
			return known, nil
		case <-changed:
		case <-patience.C:
			if away == nil {
				e.life.decide(verdict{})
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

// RouteNow is Route once there is an owner that declares the port. It takes no lock.
func (e *earlyNamespace) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	select {
	case <-e.life.decided:
	default:
		return nil, nil
	}
	if e.life.verdict.owner == nil {
		return nil, nil
	}
	return e.life.verdict.owner.RouteNow(conn)
}

// routeOwned routes a connection of the container that at serves.
func (e *earlyNamespace) routeOwned(ctx context.Context, at *attachment, w route.Flow) (proxy.Route, error) {
	n := at.desired.Load()
	client, _, declared := n.Lookup(w.To.Port())
	if declared {
		return e.Routes.For(n, w)
	}
	if len(n.ComingFor(w.To.Port())) > 0 {
		return at.routeComing(ctx, n, w)
	}
	// It was caught by the rule for a declaration of another container's. Until the
	// rules are the owner's own, we would catch ourselves.
	select {
	case <-at.settled:
	case <-at.ending:
	case <-ctx.Done():
	}
	return e.through(route.ClientOf(client), w.To)
}

// through lets a connection go where it was meant to: to the container itself. The
// client has been connected already, so it does not go on to the other address of
// localhost when nothing serves the first: that is done for it.
func (e *earlyNamespace) through(client proxy.Client, dst netip.AddrPort) (proxy.Route, error) {
	route := proxy.Route{Client: client, Port: dst.Port()}
	if dst.Port() == e.listen {
		return route, proxy.Fail(proxy.NoBinding, hint.Errorf("dial the port that is declared", "it dialled our own socket"))
	}
	itself := []proxy.Endpoint{{Addr: dst, Name: "the container itself"}}
	if other, ok := e.otherLocalhost(dst); ok {
		itself = append(itself, proxy.Endpoint{Addr: other, Name: itself[0].Name})
	}
	route.Endpoints = proxy.InOrder(itself...)
	route.Dial = e.inside.DialTCP
	who := client.ID
	if who == "" {
		who = e.path
	}
	route.Share = e.Routes.Share(who, client.Name)
	return route, nil
}

// otherLocalhost is the other address by which a client that dialled dst may have meant
// localhost; false if there is none in the namespace.
func (e *earlyNamespace) otherLocalhost(dst netip.AddrPort) (netip.AddrPort, bool) {
	other := netrules.Loopback(netrules.IPv4)
	switch dst.Addr() {
	case netrules.Loopback(netrules.IPv6):
	case netrules.Loopback(netrules.IPv4):
		other = netrules.Loopback(netrules.IPv6)
		if there, err := e.inside.HasLoopback6(); err != nil || !there {
			return netip.AddrPort{}, false
		}
	default:
		return netip.AddrPort{}, false // of 127.0.0.0/8, but never localhost
	}
	return netip.AddrPortFrom(other, dst.Port()), true
}
