// Package host is mode host: containers dial a fixed address of the host's. Each family has one, on
// lo, with a listening socket and a chain off PREROUTING that leads all its ports there. Clients are
// known by their source addresses, which the source guard binds to bridge ports.
package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/firewalld"
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
	Addrs   []netip.Addr // at most one of each family
	Sockets *listenset.Set
	Own     cleanup.Own // with the rules, the settings and the log
	Guard   sourceguard.Config
	Routing sourceguard.Routing
}

// Mode is mode host, running.
type Mode struct {
	Config
	sourceguard.Entry
	addresses []*hostAddress
	stop      context.CancelFunc
	done      chan struct{} // closed when keep has returned
	end       context.CancelFunc
	ended     chan struct{} // closed when renew has returned; nil before Stop(true)
}

// hostAddress is the fixed address of one family.
type hostAddress struct {
	family   netrules.Family
	addr     netip.Addr
	socket   *net.TCPListener
	rules    *filter.Maintainer
	unlisted filter.Unlisted
}

func (l *hostAddress) at() netip.AddrPort {
	return netip.AddrPortFrom(l.addr, handover.AddrOf(l.socket).Port())
}

func (l *hostAddress) chain() netrules.Chain { return netrules.Host(l.family, l.addr, l.at().Port()) }

// Start opens the listeners, first what is behind them: without the rules a connection is
// refused, without the guard nobody is connected.
func Start(ctx context.Context, c Config) (*Mode, error) {
	h := &Mode{Config: c, done: make(chan struct{})}
	for _, addr := range c.Addrs {
		if err := h.open(addr); err != nil {
			h.close()
			return nil, err
		}
	}
	if len(h.addresses) == 0 {
		return nil, hint.Errorf("give --host-addr an IPv4 address", "mode host has no address to listen on")
	}
	var ours []netip.Addr
	for _, l := range h.addresses {
		ours = append(ours, l.addr)
	}
	// Until the last connection is drained, whatever becomes of ctx.
	h.SourceGuard = sourceguard.Start(context.WithoutCancel(ctx), c.Guard, nil, guard.TableName, ours)
	if h.Own.Turn.Ours() { // else they are in order, or keep mends them
		var chains []netrules.Chain
		for _, l := range h.addresses {
			chains = append(chains, l.chain())
		}
		if _, err := h.Own.Rules.Apply(ctx, nil, chains...); err != nil {
			h.takeDown()
			h.close()
			return nil, fmt.Errorf("set the rules of mode host: %w", err)
		}
	}
	h.Accept = func() {
		for _, l := range h.addresses {
			h.Sockets.Accept(ctx, socket, l.socket, &sourceguard.Router{Routing: h.Routing, Guard: h.SourceGuard, Listen: l.at()})
			h.Own.Log.Info("listening for containers", "address", l.addr.String(), "listen", l.socket.Addr().String(), "guarded", h.SourceGuard != nil)
		}
	}
	if h.Own.Turn.Ours() {
		h.Accept()
	}
	ctx, h.stop = context.WithCancel(ctx)
	go h.keep(ctx)
	return h, nil
}

// lease is long enough for a repair to come late a few times.
func (h *Mode) lease() time.Duration {
	return max(2*time.Minute, 8*h.Own.Settings.Load().Config.RepairInterval)
}

// open puts addr on lo and listens there. A family that this host lacks is passed
// over.
func (h *Mode) open(addr netip.Addr) error {
	l := &hostAddress{family: netrules.FamilyOf(addr), addr: addr, rules: filter.NewMaintainer(h.Own.Rules)}
	if addr.Is6() {
		six, err := (*netns.Namespace)(nil).HasLoopback6()
		if err != nil {
			return err
		}
		if !six || !h.Own.Rules.Serves(l.family) {
			h.Own.Log.Info("IPv6 is off, so its host address is not served", "address", addr.String())
			return nil
		}
	}
	if _, err := (*netns.Namespace)(nil).Lease(addr, h.lease()); err != nil {
		return hint.Wrap(err, "mode host needs CAP_NET_ADMIN in the host's network namespace")
	}
	h.addresses = append(h.addresses, l) // from here on close undoes it
	l.socket = h.Sockets.Inherit(socket, func(at netip.AddrPort) bool { return at.Addr() == addr })
	if l.socket != nil {
		return nil
	}
	var err error
	l.socket, err = listenset.FirstFree(func(port uint16) (*net.TCPListener, error) {
		return listenset.Listen(context.Background(), netip.AddrPortFrom(addr, port).String())
	})
	return err
}

// socket is what our socket is to the next daemon.
var socket = handover.Socket{Role: handover.Host}

// keep renews the addresses and repairs the rules until ctx ends.
func (h *Mode) keep(ctx context.Context) {
	defer close(h.done)
	if !h.Own.Turn.Await(ctx, nil) {
		return
	}
	rewritten := make(chan struct{}, 1)
	var watching sync.WaitGroup
	watching.Go(func() {
		firewalld.Watch(ctx, func() {
			select {
			case rewritten <- struct{}{}:
			default:
			}
		})
	})
	defer watching.Wait()
	follows := h.Own.Turn.Follows()
	for _, l := range h.addresses {
		l.rules.Expect(l.chain())
	}
	reconcile.Loop(ctx, reconcile.Options{
		Settings: h.Own.Settings, Later: !follows, Also: rewritten,
		Changed: reconcile.Told(ctx, nil, func(err error) {
			h.Own.Log.Warn("changes of the rules are seen at the repair interval only", "error", err)
		}),
	}, func(full bool) error {
		for _, l := range h.addresses {
			if err := h.repair(ctx, l, full); err != nil && ctx.Err() == nil {
				h.Own.Log.Error("cannot repair the rules of mode host; trying again", "address", l.addr.String(), "error", err)
			}
		}
		return nil
	})
}

// repair puts right what is missing of l. Renewing a lease is told as a change, so
// it is done when it is due, or when the address is gone.
func (h *Mode) repair(ctx context.Context, l *hostAddress, due bool) error {
	if !due {
		addrs, err := (*netns.Namespace)(nil).Addrs()
		if err != nil {
			return err
		}
		due = !slices.Contains(addrs, l.addr)
	}
	if due {
		if _, err := (*netns.Namespace)(nil).Lease(l.addr, h.lease()); err != nil {
			return err
		}
	}
	kept, err := l.rules.Keep(ctx, nil, l.chain())
	if err != nil || !kept.Looked {
		return err
	}
	l.unlisted.Tell(h.Own.Log, l.family, kept.Unlisted[l.family], "cannot list all rules of this host")
	if kept.Repaired {
		h.Own.Log.Warn("repaired the rules of mode host", "address", l.addr.String(), "changes", len(kept.Changes))
	}
	return nil
}

// Stop is part of mode.Mode. The addresses stay, for the connections that are carried on. After a
// handover they are renewed for these: the other daemon may have no use for them.
func (h *Mode) Stop(handOver bool) mode.Remains {
	h.stop()
	<-h.done // or it might hook the chains again
	if !handOver {
		h.Own.Unhook(h.families())
		h.SourceGuard.End()
		return h
	}
	h.SourceGuard.Leave()
	var ctx context.Context
	ctx, h.end = context.WithCancel(context.Background())
	h.ended = make(chan struct{})
	go h.renew(ctx)
	return h
}

// Routed is part of mode.Remains: there is nothing to let go of.
func (h *Mode) Routed() {}

// Drained is part of mode.Remains. After a handover the addresses go by themselves.
func (h *Mode) Drained() {
	if h.end != nil {
		h.end()
		<-h.ended
		return
	}
	h.Own.Remove(h.families())
	h.close()
}

// takeDown undoes what a start has begun.
func (h *Mode) takeDown() {
	h.SourceGuard.End()
	h.Own.Remove(h.families())
}

func (h *Mode) families() []netrules.Family {
	var all []netrules.Family
	for _, l := range h.addresses {
		all = append(all, l.family)
	}
	return all
}

// renew renews the addresses until ctx ends.
func (h *Mode) renew(ctx context.Context) {
	defer close(h.ended)
	ticker := time.NewTicker(h.lease() / 8)
	defer ticker.Stop()
	for {
		for _, l := range h.addresses {
			if _, err := (*netns.Namespace)(nil).Lease(l.addr, h.lease()); err != nil {
				h.Own.Log.Warn("cannot renew an address that live connections use", "address", l.addr.String(), "error", err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// close takes the addresses away, but for those that connections are to which others carry;
// the listeners are closed by now, or never served.
func (h *Mode) close() {
	for _, l := range slices.Backward(h.addresses) {
		if l.socket != nil {
			l.socket.Close()
		}
		if !h.Own.Turn.Ours() || h.Own.MustStay(nil) {
			continue
		}
		if err := (*netns.Namespace)(nil).EndLease(l.addr); err != nil {
			h.Own.Log.Error("cannot remove the address of mode host; it goes by itself within minutes", "address", l.addr.String(), "error", err)
		}
	}
}
