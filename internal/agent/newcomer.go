package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

const (
	// ownerPatience is how long an accepted connection waits for the engine to say
	// whose it is: a container that runs is known within milliseconds.
	ownerPatience = 5 * time.Second
	// unclaimedPatience bounds how long we stay in a namespace that is nobody's
	// while no connection waits: the engine is setting it up.
	unclaimedPatience = time.Minute
	// mountedInterval is how often to see whether such a namespace still is.
	mountedInterval = 100 * time.Millisecond
)

// newcomer is our presence in a network namespace before it is known whose that
// is. One goroutine, run, works on it.
type newcomer struct {
	path  string
	slots chan struct{}
	ports []netrules.Port // declared by anybody who may be the owner

	once     sync.Once
	decided  chan struct{} // closed by decide
	verdict  verdict       // valid after decided
	wanted   chan struct{} // closed by handOver
	unhooked chan struct{} // closed when nothing is redirected any more, unless it was claimed
	done     chan struct{} // closed when run has ended
	guests   *guests

	// What follows belongs to run, and after it to whoever it is handed over to.
	presence
	// inside is presence.ns, for dialling; it is set before the first connection.
	inside *netns.Namespace
}

// verdict is what becomes of a newcomer. The zero value is: nobody has claimed it.
type verdict struct {
	owner  *attachment  // that will serve it; nil if none will
	client proxy.Client // whose it is, if that is known and it declares nothing
	dead   bool         // the namespace is not mounted any more
}

func newNewcomer(ns *newcomers, where string, ports []netrules.Port) *newcomer {
	return &newcomer{
		path:     where,
		slots:    ns.slots,
		ports:    ports,
		decided:  make(chan struct{}),
		wanted:   make(chan struct{}),
		unhooked: make(chan struct{}),
		done:     make(chan struct{}),
		guests:   newGuests(),
		presence: newPresence(ns.agent),
	}
}

// decide says what becomes of it. Only the first verdict counts.
func (nc *newcomer) decide(v verdict) {
	nc.once.Do(func() {
		nc.verdict = v
		close(nc.decided)
	})
}

// handOver returns what was prepared. If the claim came too late, that is at most
// the open namespace, with a chain of ours in it that an Apply will replace. It is
// called once, by the attachment that has claimed it.
func (nc *newcomer) handOver() presence {
	close(nc.wanted)
	<-nc.done
	if nc.verdict.owner != nil {
		return nc.presence
	}
	late := newPresence(nc.agent)
	late.ns = nc.ns
	return late
}

// run prepares the namespace and waits for the verdict. Whatever it is not handed
// over with it undoes.
func (nc *newcomer) run(ctx context.Context) {
	defer close(nc.done)
	began := time.Now()
	nc.slots <- struct{}{}
	err := nc.prepare(ctx)
	<-nc.slots
	if err != nil {
		// No harm is done: the attachment, if there will be one, tries again and
		// says what is wrong.
		nc.agent.log.Debug("a new network namespace was not prepared", "namespace", nc.path, "error", err)
		nc.decide(verdict{})
	} else {
		nc.agent.log.Debug("prepared a new network namespace", "namespace", nc.path, "ports", portsOf(nc.ports),
			"took", time.Since(began).String())
	}
	nc.await(ctx)
	if nc.verdict.owner == nil {
		nc.letGo()
	}
}

// prepare accepts first: sockets, and then rules for all that may be declared.
func (nc *newcomer) prepare(ctx context.Context) error {
	ns, err := netns.Open(nc.path)
	if err != nil {
		return err
	}
	nc.ns, nc.inside = ns, ns
	families, err := familiesOf(ns)
	if err != nil {
		return err
	}
	for _, f := range families {
		if err := nc.listenOn(ctx, f, proxy.RouterFunc(nc.route)); err != nil && f == netrules.IPv4 {
			return err
		}
	}
	return nc.forFamilies(func(f netrules.Family) error {
		_, err := nc.agent.rules.Apply(ctx, ns, netrules.Redirect(f, nc.listen, nc.ports))
		if f == netrules.IPv6 {
			// The engine may be turning IPv6 off in there at this moment; if it stays,
			// the attachment serves it.
			return nil
		}
		return err
	})
}

// forFamilies calls do for every family that we listen on, at the same time: the
// container is about to start.
func (nc *newcomer) forFamilies(do func(netrules.Family) error) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for f := range nc.listening {
		wg.Go(func() {
			err := do(f)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// await returns when there is a verdict, and makes one if nobody else does.
func (nc *newcomer) await(ctx context.Context) {
	unclaimed := time.NewTimer(unclaimedPatience)
	defer unclaimed.Stop()
	look := time.NewTicker(mountedInterval)
	defer look.Stop()
	for {
		select {
		case <-nc.decided:
			return
		case <-ctx.Done():
			nc.decide(verdict{})
		case <-unclaimed.C:
			nc.decide(verdict{})
		case <-look.C:
			if !sandbox.Mounted(nc.path) {
				nc.decide(verdict{dead: true})
			}
		}
	}
}

// letGo leaves the namespace as it was. Connections that came through our rules
// need the chain to the end, so that goes last; see iptables.Rules.Remove.
func (nc *newcomer) letGo() {
	if nc.ns == nil {
		close(nc.unhooked)
		return
	}
	nc.undo(func(ctx context.Context, f netrules.Family) error {
		_, err := nc.agent.rules.Unhook(ctx, nc.ns, f)
		return err
	})
	nc.stopListening()
	close(nc.unhooked)
	select {
	case <-nc.guests.left():
		nc.undo(func(ctx context.Context, f netrules.Family) error {
			_, err := removeFrom(ctx, nc.agent.rules, nc.ns, f)
			return err
		})
		nc.close()
	case <-nc.wanted: // the chain and the namespace are the attachment's from now on
	}
}

// undo takes rules down, unless they have died with their namespace. The context
// of run may have ended by then; every step bounds itself.
func (nc *newcomer) undo(do func(context.Context, netrules.Family) error) {
	if nc.verdict.dead {
		return
	}
	nc.slots <- struct{}{}
	defer func() { <-nc.slots }()
	err := nc.forFamilies(func(f netrules.Family) error {
		err := do(context.Background(), f)
		if errors.Is(err, iptables.ErrUnsupported) {
			return nil
		}
		return err
	})
	if err != nil {
		nc.agent.log.Error("cannot remove the rules of a container", "namespace", path.Base(nc.path), "error", err,
			"hint", "run: ambassadord rules remove")
	}
}

// route is the Router of the sockets that were opened before the owner was known,
// also after that.
func (nc *newcomer) route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := proxy.OriginalDst(conn)
	if err != nil {
		return proxy.Route{}, proxy.Fail(proxy.NoBinding, err)
	}
	if !nc.guests.enter() {
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.NoBinding, errors.New("the container declares nothing"))
	}
	patience := time.NewTimer(ownerPatience)
	defer patience.Stop()
	select {
	case <-nc.decided:
	case <-ctx.Done():
	case <-patience.C:
		nc.decide(verdict{})
	}
	if ctx.Err() == nil && nc.verdict.owner != nil {
		nc.guests.leave() // the chain stays, whatever becomes of this connection
		return nc.routeOwned(ctx, nc.verdict.owner, dst)
	}
	select {
	case <-nc.unhooked:
	case <-ctx.Done():
		nc.guests.leave()
		return proxy.Route{Port: dst.Port()}, proxy.Fail(proxy.NoBinding, context.Cause(ctx))
	}
	route, err := nc.through(nc.verdict.client, dst)
	if err != nil {
		nc.guests.leave()
		return route, err
	}
	route.Ended = nc.guests.leave
	return route, nil
}

// routeOwned routes a connection of the container that at serves.
func (nc *newcomer) routeOwned(ctx context.Context, at *attachment, dst netip.AddrPort) (proxy.Route, error) {
	n := at.desired.Load()
	client, _, declared := n.Lookup(dst.Port())
	if declared {
		return nc.agent.routeFor(ctx, n, dst.Port())
	}
	// It was caught by the rule for a declaration of somebody else's. Until the
	// rules are the owner's own, we would catch ourselves.
	select {
	case <-at.settled:
	case <-at.ending:
	case <-ctx.Done():
	}
	return nc.through(clientOf(client), dst)
}

// through lets a connection go where it was meant to: to the container itself.
func (nc *newcomer) through(client proxy.Client, dst netip.AddrPort) (proxy.Route, error) {
	route := proxy.Route{Client: client, Port: dst.Port()}
	if dst.Port() == nc.listen {
		return route, proxy.Fail(proxy.NoBinding, hint.Errorf("dial the port that is declared", "it dialled our own socket"))
	}
	route.Endpoints = []proxy.Endpoint{{Addr: dst, Name: "the container itself"}}
	route.Dial = nc.inside.DialTCP
	return route, nil
}
