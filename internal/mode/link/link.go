// Package link is mode link: the daemon runs in a container that others are linked to
// (docker run --link), and the chain off PREROUTING of its own network namespace leads every port of
// its addresses to one socket. Clients are known by their source addresses.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/listenset"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/reconcile"
	"github.com/ambassadord/ambassadord/internal/sourceguard"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Config is what the mode needs of the daemon.
type Config struct {
	Port    uint16
	Sockets *listenset.Set
	Own     cleanup.Own // with the rules, the settings and the log
	Guard   sourceguard.Config
	Routing sourceguard.Routing
}

// Mode is mode link, running.
type Mode struct {
	Config
	sourceguard.Entry
	applied  []netrules.Family
	rules    *filter.Maintainer
	host     *netns.Namespace // the host's, where our bridge is; nil if it is out of reach
	listener *net.TCPListener
	stop     context.CancelFunc
	done     chan struct{} // closed when keep has returned
	handed   bool          // another daemon goes on
	unlisted filter.Unlisted
}

// Start listens on the link port and redirects every port of our addresses to it. Where we may not
// set the rules, somebody else may have: the original's --setup-iptables runs in a container of
// its own.
func Start(ctx context.Context, c Config) (*Mode, error) {
	if err := MustNotBeHost(); err != nil {
		return nil, err
	}
	listener, err := c.Sockets.ListenFixed(ctx, handover.Link, Address(c.Port))
	if err != nil {
		return nil, err
	}
	l := &Mode{Config: c, rules: filter.NewMaintainer(c.Own.Rules), listener: listener, done: make(chan struct{})}
	l.startGuard(ctx)
	l.Accept = func() {
		l.Sockets.Accept(ctx, handover.Socket{Role: handover.Link}, listener, &sourceguard.Router{Routing: l.Routing, Guard: l.SourceGuard})
	}
	if l.Own.Turn.Ours() {
		l.Accept()
		l.apply(ctx)
	}
	ctx, l.stop = context.WithCancel(ctx)
	go l.keep(ctx)
	l.Own.Log.Info("listening for linked containers", "address", listener.Addr().String(), "families", netrules.FamilyNames(l.applied))
	return l, nil
}

// Address is where mode link listens.
func Address(port uint16) string { return fmt.Sprintf(":%d", port) }

// apply sets the rules, if we may.
func (l *Mode) apply(ctx context.Context) {
	var err error
	if l.applied, err = apply(ctx, l.Own.Rules, l.Port); err != nil {
		l.Own.Log.Warn("cannot set the rules of mode link", "error", err,
			"hint", "give this container --cap-add NET_ADMIN, or run: docker run --rm --privileged --net container:"+hostname()+" ambassadord --setup-iptables")
	}
}

// hostname is what an engine calls us by default when we run in a container.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// startGuard guards our addresses where the other ends of the containers' veth pairs are:
// in the host's namespace, which is in reach with the host's processes.
func (l *Mode) startGuard(ctx context.Context) {
	ours, err := (*netns.Namespace)(nil).Addrs()
	if err == nil {
		err = l.Guard.Allowed // or we would say that what we may not enter is out of sight
	}
	if err == nil {
		l.host, err = hostNamespace(ctx)
	}
	if err != nil {
		l.Guard.WarnUnguarded(err)
		return
	}
	ours = slices.DeleteFunc(ours, func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() })
	// Until the last connection is drained, whatever becomes of ctx. Several
	// daemons may be linked to on one host, so each has a table of its own.
	l.SourceGuard = sourceguard.Start(context.WithoutCancel(ctx), l.Guard, l.host, guard.TableName+"_"+hostname(), ours)
}

// hostNamespace finds the network namespace in which our own veth pairs end at a
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
func (l *Mode) keep(ctx context.Context) {
	defer close(l.done)
	if !l.Own.Turn.Await(ctx, nil) {
		return
	}
	if l.Own.Turn.Follows() {
		l.apply(ctx) // which finds them in order
	}
	l.rules.Expect(Chains(l.applied, l.Port)...)
	reconcile.Loop(ctx, reconcile.Options{
		Settings: l.Own.Settings, Later: true,
		Changed: reconcile.Told(ctx, nil, func(err error) {
			l.Own.Log.Warn("changes of the rules are seen at the repair interval only", "error", err)
		}),
	}, func(bool) error {
		if len(l.applied) > 0 {
			l.repair(ctx)
		}
		return nil
	})
}

// repair puts right what others have changed.
func (l *Mode) repair(ctx context.Context) {
	kept, err := l.rules.Keep(ctx, nil, Chains(l.applied, l.Port)...)
	if err != nil {
		if ctx.Err() == nil {
			l.Own.Log.Error("cannot repair the rules of mode link; trying again", "error", err)
		}
		return
	}
	if !kept.Looked {
		return
	}
	for _, f := range l.applied {
		l.unlisted.Tell(l.Own.Log, f, kept.Unlisted[f], "cannot list all rules of this network namespace")
	}
	if kept.Repaired {
		l.Own.Log.Warn("repaired the rules of mode link", "families", netrules.FamilyNames(netrules.FamiliesIn(kept.Changes)), "changes", len(kept.Changes))
	}
}

// Chains are the chains of mode link.
func Chains(families []netrules.Family, port uint16) []netrules.Chain {
	chains := make([]netrules.Chain, len(families))
	for i, f := range families {
		chains[i] = netrules.Link(f, port)
	}
	return chains
}

// apply applies the chain for every family that this namespace has. It returns these also
// with an error: the chain of one may be there then.
func apply(ctx context.Context, rules filter.Rules, port uint16) ([]netrules.Family, error) {
	applied, err := rules.Apply(ctx, nil, Chains(netrules.Families(), port)...)
	return slices.DeleteFunc(netrules.Families(), func(f netrules.Family) bool { return slices.Contains(applied.Lacking, f) }), err
}

// MustNotBeHost refuses to redirect every port of a host: a namespace with
// bridges in it is one.
func MustNotBeHost() error {
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

// Setup sets the rules of mode link in this namespace and leaves them there.
func Setup(ctx context.Context, port uint16, log *slog.Logger) error {
	if err := MustNotBeHost(); err != nil {
		return err
	}
	rules, err := filter.Open(ctx, filter.Auto)
	if err != nil {
		return err
	}
	families, err := apply(ctx, rules, port)
	if err != nil {
		return hint.Wrap(err, "run it with --privileged, or with --cap-add NET_ADMIN, and --net container:NAME")
	}
	log.Info("every port of this network namespace leads to the daemon's", "port", port, "families", netrules.FamilyNames(families))
	return nil
}

// Stop is part of mode.Mode.
func (l *Mode) Stop(handOver bool) mode.Remains {
	l.stop()
	<-l.done // or it might hook the chain again
	if l.handed = handOver; handOver {
		l.SourceGuard.Leave()
	} else {
		l.Own.Unhook(l.applied)
		l.SourceGuard.End()
		l.listener.Close() // if it was never served
	}
	if l.host != nil {
		l.host.Close()
	}
	return l
}

// Routed is part of mode.Remains: there is nothing to let go of.
func (l *Mode) Routed() {}

// Drained is part of mode.Remains. It takes the rules that --setup-iptables set along, if we may:
// without us they lead nowhere.
func (l *Mode) Drained() {
	if !l.handed {
		l.Own.Remove(l.applied)
	}
}
