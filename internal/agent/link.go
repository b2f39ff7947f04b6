package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

// link is mode link: the chain off PREROUTING of our own namespace.
type link struct {
	agent    *agent
	applied  []netrules.Family
	host     *netns.Namespace // the host's, where our bridge is; nil if it is out of reach
	sentry   *sentry          // nil where source addresses cannot be guarded
	listener *net.TCPListener
	accept   func() // begins to
	stop     context.CancelFunc
	done     chan struct{} // closed when keep has returned
	unlisted unlisted
}

// startLink listens on the link port and redirects every port of our addresses
// to it. Where we may not set the rules, somebody else may have: the original's
// --setup-iptables runs in a container of its own.
func (a *agent) startLink(ctx context.Context) (*link, error) {
	if err := mustNotBeHost(); err != nil {
		return nil, err
	}
	listener, err := a.listenFixed(ctx, handover.Link, linkAddress(a.cfg.Port))
	if err != nil {
		return nil, err
	}
	l := &link{agent: a, done: make(chan struct{})}
	l.guard(ctx)
	l.listener = listener
	l.accept = func() {
		a.accept(ctx, handover.Socket{Role: handover.Link}, listener, &sourceRouter{RouterFunc: l.route, agent: a, sentry: l.sentry})
	}
	if a.owns() {
		l.accept()
		l.apply(ctx)
	}
	ctx, l.stop = context.WithCancel(ctx)
	go l.keep(ctx)
	a.log.Info("listening for linked containers", "address", listener.Addr().String(), "families", familyNames(l.applied))
	return l, nil
}

func linkAddress(port uint16) string { return fmt.Sprintf(":%d", port) }

// apply sets the rules, if we may.
func (l *link) apply(ctx context.Context) {
	var err error
	if l.applied, err = applyLink(ctx, l.agent.rules, l.agent.cfg.Port); err != nil {
		l.agent.log.Warn("cannot set the rules of mode link", "error", err,
			"hint", "give this container --cap-add NET_ADMIN, or run: docker run --rm --privileged --net container:"+dockerd.Hostname()+" ambassadord --setup-iptables")
	}
}

// guard guards our addresses where the other ends of the containers' cables are:
// in the host's namespace, which is in reach with the host's processes.
func (l *link) guard(ctx context.Context) {
	ours, err := (*netns.Namespace)(nil).Addrs()
	if err == nil {
		err = l.agent.mayGuard() // or we would say that what we may not enter is out of sight
	}
	if err == nil {
		l.host, err = hostNamespace(ctx)
	}
	if err != nil {
		l.agent.warnUnguarded(err)
		return
	}
	ours = slices.DeleteFunc(ours, func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() })
	// Until the last connection is drained, whatever becomes of ctx. Several
	// daemons may be linked to on one host, so each has a table of its own.
	l.sentry = l.agent.startSentry(context.WithoutCancel(ctx), l.host, guard.TableName+"_"+dockerd.Hostname(), ours)
}

// hostNamespace finds the network namespace in which our own cables end at a
// bridge, among those of the processes that we see.
func hostNamespace(ctx context.Context) (*netns.Namespace, error) {
	own, err := netns.Current()
	if err != nil {
		return nil, err
	}
	defer own.Close()
	all, _ := netns.All(ctx) // what it could not open is not ours to guard, or is missed below
	var host *netns.Namespace
	for _, ns := range all {
		if host == nil && ns.ID() != own.ID() && holdsCablesOf(ns, own) {
			host = ns
			continue
		}
		ns.Close()
	}
	if host == nil {
		return nil, hint.Wrap(errors.New("the network namespace with our bridge is out of sight"),
			"the guard needs --pid host, --cap-add SYS_ADMIN and --cap-add SYS_PTRACE")
	}
	return host, nil
}

func holdsCablesOf(ns, far *netns.Namespace) bool {
	wiring, err := netns.ReadWiring(ns)
	if err != nil {
		return false // not a host's that we may enter
	}
	ports, err := wiring.Behind(far)
	return err == nil && len(ports) > 0
}

// keep repairs what others have done to the rules that we set, until ctx ends.
func (l *link) keep(ctx context.Context) {
	defer close(l.done)
	if !l.agent.own(ctx, nil) {
		return
	}
	if l.agent.gate != nil {
		l.apply(ctx) // which finds them in order
	}
	var verified uint64
	l.agent.occasions(ctx, nil, func(bool) {
		if len(l.applied) > 0 {
			l.repair(ctx, &verified)
		}
	})
}

// repair puts right what is not as it was at the mark verified.
func (l *link) repair(ctx context.Context, verified *uint64) {
	mark, err := l.agent.rules.Mark(ctx, nil)
	if err == nil && *verified == mark {
		return // nobody has touched anything since we looked
	}
	applied, err := l.agent.rules.Apply(ctx, nil, linkChains(l.applied, l.agent.cfg.Port)...)
	if err != nil {
		if ctx.Err() == nil {
			l.agent.log.Error("cannot repair the rules of mode link; trying again", "error", err)
		}
		return
	}
	for _, f := range l.applied {
		l.unlisted.tell(l.agent.log, f, applied.Unlisted[f], "cannot list all rules of this network namespace")
	}
	if applied.Settled() {
		*verified = mark
	}
	if len(applied.Changes) > 0 {
		l.agent.log.Warn("repaired the rules of mode link", "families", familyNames(familiesIn(applied.Changes)), "changes", len(applied.Changes))
	}
}

// linkChains are the chains of mode link.
func linkChains(families []netrules.Family, port uint16) []netrules.Chain {
	chains := make([]netrules.Chain, len(families))
	for i, f := range families {
		chains[i] = netrules.Link(f, port)
	}
	return chains
}

// applyLink applies the chain for every family that this namespace has. It returns these also
// with an error: the chain of one may be there then.
func applyLink(ctx context.Context, rules filter.Rules, port uint16) ([]netrules.Family, error) {
	applied, err := rules.Apply(ctx, nil, linkChains(netrules.Families(), port)...)
	return slices.DeleteFunc(netrules.Families(), func(f netrules.Family) bool { return slices.Contains(applied.Lacking, f) }), err
}

// mustNotBeHost refuses to redirect every port of a host: a namespace with
// bridges in it is one.
func mustNotBeHost() error {
	bridge, err := netns.HasBridge()
	if err != nil {
		return fmt.Errorf("own network namespace: %w", err)
	}
	if bridge {
		return hint.Errorf("run it in a container on a bridge network, or use --mode redirect on the host",
			"mode link takes every port of its network namespace, and this one is a host's")
	}
	return nil
}

// SetupLink sets the rules of mode link in this namespace and leaves them there.
func SetupLink(ctx context.Context, port uint16, log *slog.Logger) error {
	if err := mustNotBeHost(); err != nil {
		return err
	}
	rules, err := filter.Open(ctx, filter.Auto)
	if err != nil {
		return err
	}
	families, err := applyLink(ctx, rules, port)
	if err != nil {
		return hint.Wrap(err, "run it with --privileged, or with --cap-add NET_ADMIN, and --net container:NAME")
	}
	log.Info("every port of this network namespace leads to the daemon's", "port", port, "families", familyNames(families))
	return nil
}

// update concerns the guard alone: who is linked shows when they connect.
func (l *link) update(_ context.Context, table *identity.Table) { l.sentry.follow(table) }

// unhook stops redirecting; release removes the rest of the rules once the
// connections that came through them have been drained.
func (l *link) unhook() {
	l.stop()
	<-l.done // or it might hook the chain again
	l.agent.unhookOwn(config.Link, l.applied)
	l.sentry.end()
	l.listener.Close() // if it was never served
	if l.host != nil {
		l.host.Close()
	}
}

// adopted accepts as soon as the guard knows who is there: nobody is believed before.
func (l *link) adopted(ctx context.Context) error {
	if err := l.sentry.ready(ctx); err != nil {
		return err
	}
	l.accept()
	return nil
}

// leave stops the work on rules.
func (l *link) leave() {
	l.stop()
	<-l.done
	l.sentry.leave()
	if l.host != nil {
		l.host.Close()
	}
}

// left has nothing to let go of.
func (l *link) left() {}

// gone has nothing to end.
func (l *link) gone() {}

// release takes the rules that --setup-iptables set along, if we may: without us they
// lead nowhere.
func (l *link) release() { l.agent.removeOwn(config.Link, l.applied) }

// route is the Router of mode link.
func (l *link) route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := proxy.OriginalDst(conn)
	if err != nil {
		return proxy.Route{Client: proxy.Client{Name: sourceOf(conn).String()}}, proxy.Fail(proxy.NoBinding, err)
	}
	return l.agent.routeBySource(ctx, conn, dst, l.sentry)
}
