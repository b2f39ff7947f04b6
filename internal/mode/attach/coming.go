package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/proxy"
)

// A container that joins the network namespace of another (--network container:X) gets no
// namespace whose appearance could be seen, but whose it will be is known from its creation
// on. So its ports are redirected there while it does not run yet, or any more, and its
// first instruction may dial. When such a port is dialled, the daemon asks the engine: the question is
// answered once the container runs, if it is being started, or else at once. If it does not
// run, what was dialled is the namespace's own: where a process in there listens at the
// port the daemon takes its rule away, until something changes about the containers that declare it.

// attaches reports whether mode has anything to serve in n.
func attaches(mode config.Mode, n *identity.Namespace) bool {
	return len(n.Bindings()) > 0 || mode == config.Redirect && len(comingPorts(n)) > 0
}

// route routes a connection that was caught in at's namespace.
func (at *attachment) route(ctx context.Context, w route.Flow) (proxy.Route, error) {
	n := at.desired.Load()
	if len(n.ComingFor(w.To.Port())) > 0 {
		return at.routeComing(ctx, n, w)
	}
	return at.Routes.For(n, w)
}

// routeComing is route for a port that only containers declare which are coming to n, at's
// namespace.
func (at *attachment) routeComing(ctx context.Context, n *identity.Namespace, w route.Flow) (proxy.Route, error) {
	client, route, err := at.Routes.Coming(ctx, n, w)
	if client != nil || proxy.ReasonOf(err) != proxy.NoBinding {
		return route, err
	}
	select {
	case <-at.settled: // from now on at.inside is there
	case <-at.ending:
		return route, err
	case <-ctx.Done():
		return route, err
	}
	port := w.To.Port()
	served, lookErr := at.inside.ListeningPorts()
	if lookErr != nil || !served[port] {
		return route, err
	}
	if err := at.concede(ctx, n, port); err != nil {
		return route, proxy.Fail(proxy.NoBinding, err)
	}
	// As one whose owner was not known is let through.
	return at.earlyRouter(at.listen).through(route.Client, w.To)
}

// earlyRouter routes what is led to the port listen by rules that were made before at had the
// namespace: what others declare, and at does not, is let through. It is called when at.inside
// is there.
func (at *attachment) earlyRouter(listen uint16) *earlyNamespace {
	e := &earlyNamespace{
		path: at.inside.Path(), inside: at.inside, namespaceSockets: namespaceSockets{Config: at.Config, holding: holding{listen: listen}},
		life: newEarlyLife(), inFlight: newInFlight(),
	}
	e.life.decide(verdict{owner: at})
	return e
}

// concessions are ports that an attachment does not redirect, because a process in
// the namespace serves them while the containers that declare them do not run.
type concessions struct {
	mu  sync.Mutex
	all map[uint16]*concession
}

type concession struct {
	to   []*identity.Client // the clients that declared it then
	once sync.Once
	done chan struct{} // closed when it is not redirected any more
}

// concede has port redirected no more, and returns when it is not.
func (at *attachment) concede(ctx context.Context, n *identity.Namespace, port uint16) error {
	at.conceded.mu.Lock()
	c := at.conceded.all[port]
	if coming := n.ComingFor(port); c == nil || !slices.Equal(c.to, coming) {
		c = &concession{to: coming, done: make(chan struct{})}
		if at.conceded.all == nil {
			at.conceded.all = map[uint16]*concession{}
		}
		at.conceded.all[port] = c
	}
	at.conceded.mu.Unlock()
	select {
	case at.changed <- struct{}{}:
	default:
	}
	late := time.NewTimer(OwnerPatience)
	defer late.Stop()
	select {
	case <-c.done:
		return nil
	case <-at.ending:
		return errors.New("the container has ended")
	case <-late.C:
		return fmt.Errorf("the rule for port %d is not taken back within %s", port, OwnerPatience)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// arrived says that ports are redirected, and no others.
func (at *attachment) arrived(ports []netrules.Port) {
	at.redirects.caughtUp(ports)
	at.conceded.mu.Lock()
	defer at.conceded.mu.Unlock()
	redirected := map[uint16]bool{}
	for _, p := range ports {
		redirected[p.Number] = true
	}
	for port, c := range at.conceded.all {
		if !redirected[port] {
			c.once.Do(func() { close(c.done) })
		}
	}
}

// hasten redirects by one message what containers declare that are coming, or have come a
// moment ago, and is not redirected yet: iptables has to wait for its turn.
func (at *attachment) hasten(ctx context.Context) {
	n := at.desired.Load()
	if at.Name == config.Listen || !at.urgent(n) {
		return
	}
	families, err := Families(at.ns)
	if err == nil {
		err = at.accept(ctx, families)
	}
	if err == nil {
		err = at.redirects.cover()
	}
	if err != nil {
		at.Log.Debug("ports have to wait for iptables", "namespace", at.ns.Path(), "error", err)
		return
	}
	at.Log.Debug("prepared in advance", "client", n.Owner.Name, "ports", portsOf(at.portsFor(n)))
}

// young is for how long after its start a container may not have come to its first dial.
const young = time.Second

// urgent reports whether one of the ports that iptables does not redirect yet may be about to
// be dialled for the first time.
func (at *attachment) urgent(n *identity.Namespace) bool {
	return slices.ContainsFunc(at.redirects.lacks(), func(p netrules.Port) bool {
		if len(n.ComingFor(p.Number)) > 0 {
			return true
		}
		client, _, declared := n.Lookup(p.Number)
		return declared && time.Since(client.Container.StartedAt) < young
	})
}
