package attach

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/listenset"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/sourceguard"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/advance"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

// namespaceSockets is what the mode holds inside one network namespace. Its Config is the same from
// the beginning to the end, so that connections may be routed by it at any time.
type namespaceSockets struct {
	*Config
	holding
}

// holding is the namespace itself, and a listening socket for each of its loopback
// addresses. Either keeps it alive. One goroutine at a time works on it.
type holding struct {
	ns        *netns.Namespace // nil while we hold none
	listen    uint16           // the port of the sockets, 0 before the first
	listening map[netrules.Family]context.CancelFunc
	unpin     func() // see filter.Rules.Pin; nil while nothing is pinned
	surplus   surplus
}

// surplus is what leads connections to us in a namespace beside our own sockets and rules, until
// those are there for all that is declared: what the process that prepares namespaces has made
// while we were at work in there, and what the daemon before us has left.
type surplus struct {
	sockets []context.CancelFunc
	rules   []*advance.Rules
}

// onTheWay is how long a socket still accepts to which no rule leads any more.
const onTheWay = time.Second

// drop takes the rules away, and in a moment the sockets.
func (s *surplus) drop() {
	for _, cancel := range s.sockets {
		time.AfterFunc(onTheWay, cancel)
	}
	s.sockets = nil
	s.end()
}

// unhook has the rules redirect nothing any more. Connections that came by them go on.
func (s *surplus) unhook() {
	for _, rules := range s.rules {
		_ = rules.Update(nil)
	}
}

// end takes all of it away.
func (s *surplus) end() {
	for _, rules := range s.rules {
		_ = rules.Close()
	}
	for _, cancel := range s.sockets {
		cancel()
	}
	*s = surplus{}
}

func newSockets(c *Config) namespaceSockets {
	return namespaceSockets{Config: c, holding: newHolding()}
}

func newHolding() holding {
	return holding{listening: map[netrules.Family]context.CancelFunc{}}
}

// Families are those whose loopback the namespace has.
func Families(ns *netns.Namespace) ([]netrules.Family, error) {
	six, err := ns.HasLoopback6()
	if err != nil {
		return nil, fmt.Errorf("look for ::1: %w", err)
	}
	if six {
		return []netrules.Family{netrules.IPv4, netrules.IPv6}, nil
	}
	return []netrules.Family{netrules.IPv4}, nil
}

// listenOn opens the listening socket of f, unless it is open, and serves it.
func (p *namespaceSockets) listenOn(ctx context.Context, f netrules.Family, router proxy.NonBlockingRouter) error {
	if p.listening[f] != nil {
		return nil
	}
	if p.inherit(ctx, f, router) {
		return nil
	}
	listener, err := p.openListener(f)
	if err != nil {
		return fmt.Errorf("listen inside the container: %w", err)
	}
	p.serve(ctx, f, listener, router)
	return nil
}

// inherit serves the socket of f that the daemon before us has left, if there is one.
func (p *namespaceSockets) inherit(ctx context.Context, f netrules.Family, router proxy.NonBlockingRouter) bool {
	listener := p.Sockets.Inherit(p.socket(), func(at netip.AddrPort) bool {
		return at.Addr() == netrules.Loopback(f) && (p.listen == 0 || p.listen == at.Port())
	})
	if listener == nil {
		return false
	}
	p.listen = handover.AddrOf(listener).Port()
	p.serve(ctx, f, listener, router)
	return true
}

// borrow serves the rest of the sockets that the daemon before us has left, and reports
// whether there are some.
func (p *namespaceSockets) borrow(ctx context.Context, router proxy.NonBlockingRouter) (some bool) {
	for _, f := range netrules.Families() {
		for {
			listener := p.Sockets.Inherit(p.socket(), func(at netip.AddrPort) bool { return at.Addr() == netrules.Loopback(f) })
			if listener == nil {
				break
			}
			p.serveBeside(ctx, listener, router)
			some = true
		}
	}
	return some
}

// adoptMade serves what was prepared beside us.
func (p *namespaceSockets) adoptMade(ctx context.Context, made *preparer.Made, router proxy.NonBlockingRouter) {
	for _, listener := range made.Listening {
		p.serveBeside(ctx, listener, router)
	}
	p.surplus.rules = append(p.surplus.rules, made.Rules)
}

func (p *namespaceSockets) serveBeside(ctx context.Context, listener *net.TCPListener, router proxy.NonBlockingRouter) {
	serving, cancel := context.WithCancel(ctx)
	p.surplus.sockets = append(p.surplus.sockets, cancel)
	p.Sockets.Accept(serving, p.socket(), listener, &insiders{router, p.ns})
}

func (p *namespaceSockets) serve(ctx context.Context, f netrules.Family, listener *net.TCPListener, router proxy.NonBlockingRouter) {
	serving, cancel := context.WithCancel(ctx)
	p.listening[f] = cancel
	p.Sockets.Accept(serving, p.socket(), listener, &insiders{router, p.ns})
}

// socket is what our sockets in there are to the next daemon.
func (p *namespaceSockets) socket() handover.Socket {
	return handover.Socket{Role: handover.Redirect, Namespace: p.ns.ID()}
}

// openListener takes the first port of our range that is free, or any; both
// families listen on the same one.
func (p *namespaceSockets) openListener(f netrules.Family) (*net.TCPListener, error) {
	if p.listen != 0 {
		return p.ns.ListenTCP(netip.AddrPortFrom(netrules.Loopback(f), p.listen))
	}
	listener, err := listenset.FirstFree(func(port uint16) (*net.TCPListener, error) {
		return p.ns.ListenTCP(netip.AddrPortFrom(netrules.Loopback(f), port))
	})
	if err == nil {
		p.listen = listener.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return listener, err
}

// stopListening closes the sockets; what they have accepted is carried on.
func (p *namespaceSockets) stopListening() {
	for _, cancel := range p.listening {
		cancel()
	}
}

// stopListeningOn closes the socket of f, if there is one.
func (p *namespaceSockets) stopListeningOn(f netrules.Family) {
	if cancel := p.listening[f]; cancel != nil {
		cancel()
		delete(p.listening, f)
	}
}

// close lets go of the namespace.
func (p *namespaceSockets) close() {
	if p.unpin != nil {
		p.unpin()
		p.unpin = nil
	}
	p.ns.Close()
	p.ns = nil
}

// offered is what was prepared in a namespace in which work has begun without it.
type offered struct {
	mu     sync.Mutex
	made   []*preparer.Made
	closed bool
}

// put reports whether made will be taken.
func (o *offered) put(made *preparer.Made) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.made = append(o.made, made)
	return true
}

// take returns what was put, and if it is the last time, has put refuse more.
func (o *offered) take(last bool) []*preparer.Made {
	o.mu.Lock()
	defer o.mu.Unlock()
	made := o.made
	o.made, o.closed = nil, last
	return made
}

// insiders is the Router of a socket at a loopback address of a container's namespace: it
// serves processes in there and no others. No others get there, unless rules that the
// container has made lead to it what others, or we ourselves, have dialled.
type insiders struct {
	proxy.NonBlockingRouter

	ns *netns.Namespace
}

// Route is that of a connection from inside.
func (i *insiders) Route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	if source := route.PeerOf(conn).Addr(); !source.IsLoopback() {
		if err := i.refuse(source); err != nil {
			return proxy.Route{Client: proxy.Client{Name: source.String()}, Port: route.LocalOf(conn).Port()}, err
		}
	}
	return i.NonBlockingRouter.Route(ctx, conn)
}

// RouteNow is Route of a connection that is surely from inside, as nearly all are.
func (i *insiders) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	if !conn.Source.Addr().Unmap().IsLoopback() {
		return nil, nil
	}
	return i.NonBlockingRouter.RouteNow(conn)
}

// refuse says why a connection from source is not the container's own; nil if it is.
func (i *insiders) refuse(source netip.Addr) error {
	const fix = "remove the rules (REDIRECT, DNAT) that lead to our port in this container"
	addrs, err := i.ns.Addrs()
	switch {
	case err != nil:
		return proxy.Fail(proxy.UnknownClient, err)
	case slices.Contains(addrs, source):
		return nil
	case sourceguard.IsOwn(source):
		return proxy.Fail(proxy.Loop, hint.Errorf(fix, "it comes from %s, an address of the daemon's own: rules in network namespace %s lead what the host dials there to our socket",
			source, i.ns.Path()))
	}
	return proxy.Fail(proxy.UnknownClient, hint.Errorf(fix, "it comes from %s, which is no address of network namespace %s: rules in there lead it to our socket",
		source, i.ns.Path()))
}
