package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/firewalld"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

// host is mode host: a fixed address of the host's for each family, a listening
// socket on it, and the chain off PREROUTING that leads all its ports there.
type host struct {
	agent  *agent
	doors  []*door
	sentry *sentry // nil where source addresses cannot be guarded
	accept func()  // begins to
	stop   context.CancelFunc
	done   chan struct{} // closed when keep has returned
	end    context.CancelFunc
	ended  chan struct{} // closed when renew has returned; nil before leave
}

// door is the fixed address of one family.
type door struct {
	family   netrules.Family
	addr     netip.Addr
	listener *net.TCPListener
	verified uint64 // the mark of the rules when they were found in order
	unlisted unlisted
}

func (d *door) chain() netrules.Chain {
	return netrules.Host(d.family, d.addr, d.listener.Addr().(*net.TCPAddr).AddrPort().Port())
}

// startHost opens the doors, first what is behind them: without the rules a
// connection is refused, without the guard nobody is connected.
func (a *agent) startHost(ctx context.Context) (*host, error) {
	h := &host{agent: a, done: make(chan struct{})}
	for _, addr := range a.cfg.HostAddrs {
		if err := h.open(addr); err != nil {
			h.close()
			return nil, err
		}
	}
	if len(h.doors) == 0 {
		return nil, hint.Errorf("give --host-addr an IPv4 address", "mode host has no address to listen on")
	}
	var ours []netip.Addr
	for _, d := range h.doors {
		ours = append(ours, d.addr)
	}
	// Until the last connection is drained, whatever becomes of ctx.
	h.sentry = a.startSentry(context.WithoutCancel(ctx), nil, guard.TableName, ours)
	if a.owns() { // else they are in order, or keep mends them
		var chains []netrules.Chain
		for _, d := range h.doors {
			chains = append(chains, d.chain())
		}
		if _, err := a.rules.Apply(ctx, nil, chains...); err != nil {
			h.takeDown()
			h.close()
			return nil, fmt.Errorf("set the rules of mode host: %w", err)
		}
	}
	h.accept = func() {
		for _, d := range h.doors {
			port := d.listener.Addr().(*net.TCPAddr).AddrPort().Port()
			a.accept(ctx, hostSocket, d.listener, &sourceRouter{RouterFunc: h.route, agent: a, sentry: h.sentry, listen: netip.AddrPortFrom(d.addr, port)})
			a.log.Info("listening for containers", "address", d.addr.String(), "listen", d.listener.Addr().String(), "guarded", h.sentry != nil)
		}
	}
	if a.owns() {
		h.accept()
	}
	ctx, h.stop = context.WithCancel(ctx)
	go h.keep(ctx)
	return h, nil
}

// lease is long enough for a repair to come late a few times.
func (h *host) lease() time.Duration {
	return max(2*time.Minute, 8*h.agent.tuned().cfg.RepairInterval)
}

// open puts addr on lo and listens there. A family that this host lacks is passed
// over.
func (h *host) open(addr netip.Addr) error {
	d := &door{family: netrules.FamilyOf(addr), addr: addr}
	if addr.Is6() {
		six, err := (*netns.Namespace)(nil).HasLoopback6()
		if err != nil {
			return err
		}
		if !six || !h.agent.rules.Serves(d.family) {
			h.agent.log.Info("IPv6 is off, so its host address is not served", "address", addr.String())
			return nil
		}
	}
	if _, err := (*netns.Namespace)(nil).Lease(addr, h.lease()); err != nil {
		return hint.Wrap(err, "mode host needs CAP_NET_ADMIN in the host's network namespace")
	}
	h.doors = append(h.doors, d) // from here on close undoes it
	d.listener = h.agent.inherit(hostSocket, func(at netip.AddrPort) bool { return at.Addr() == addr })
	if d.listener != nil {
		return nil
	}
	var err error
	d.listener, err = firstFree(func(port uint16) (*net.TCPListener, error) {
		return listenTCP(context.Background(), netip.AddrPortFrom(addr, port).String())
	})
	return err
}

// hostSocket is what a door is to the next daemon.
var hostSocket = handover.Socket{Role: handover.Host}

// route is the Router of mode host. Who was not led to our socket but dialled it
// is refused: it could not have been meant.
func (h *host) route(ctx context.Context, conn *net.TCPConn) (proxy.Route, error) {
	dst, err := proxy.OriginalDst(conn)
	if err == nil && dst == localOf(conn) {
		err = hint.Errorf("dial the port that the container declares", "%s is where the daemon itself listens", dst)
	}
	if err != nil {
		return proxy.Route{Client: proxy.Client{Name: sourceOf(conn).String()}, Port: dst.Port()}, proxy.Fail(proxy.NoBinding, err)
	}
	return h.agent.routeBySource(ctx, conn, dst, h.sentry)
}

// keep renews the addresses and repairs the rules until ctx ends.
func (h *host) keep(ctx context.Context) {
	defer close(h.done)
	if !h.agent.own(ctx, nil) {
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
	look := func(due bool) {
		for _, d := range h.doors {
			if err := h.repair(ctx, d, due); err != nil && ctx.Err() == nil {
				h.agent.log.Error("cannot repair the rules of mode host; trying again", "address", d.addr.String(), "error", err)
			}
		}
	}
	if h.agent.gate != nil {
		look(true)
	}
	h.agent.occasions(ctx, rewritten, look)
}

// repair puts right what is missing of d. Renewing a lease is told as a change, so
// it is done when it is due, or when the address is gone.
func (h *host) repair(ctx context.Context, d *door, due bool) error {
	if !due {
		addrs, err := (*netns.Namespace)(nil).Addrs()
		if err != nil {
			return err
		}
		due = !slices.Contains(addrs, d.addr)
	}
	if due {
		if _, err := (*netns.Namespace)(nil).Lease(d.addr, h.lease()); err != nil {
			return err
		}
	}
	mark, err := h.agent.rules.Mark(ctx, nil)
	if err != nil || mark == d.verified {
		return err
	}
	applied, err := h.agent.rules.Apply(ctx, nil, d.chain())
	if err != nil {
		return err
	}
	d.unlisted.tell(h.agent.log, d.family, applied.Unlisted[d.family], "cannot list all rules of this host")
	if applied.Settled() {
		d.verified = mark
	}
	if len(applied.Changes) > 0 {
		h.agent.log.Warn("repaired the rules of mode host", "address", d.addr.String(), "changes", len(applied.Changes))
	}
	return nil
}

func (h *host) update(_ context.Context, table *identity.Table) { h.sentry.follow(table) }

// unhook stops redirecting. The addresses stay, for the connections that are
// carried on.
func (h *host) unhook() {
	h.stop()
	<-h.done // or it might hook the chains again
	h.agent.unhookOwn(config.Host, h.families())
	h.sentry.end()
}

func (h *host) release() {
	h.agent.removeOwn(config.Host, h.families())
	h.close()
}

// takeDown undoes what a start has begun.
func (h *host) takeDown() {
	h.sentry.end()
	h.agent.removeOwn(config.Host, h.families())
}

func (h *host) families() []netrules.Family {
	var all []netrules.Family
	for _, d := range h.doors {
		all = append(all, d.family)
	}
	return all
}

// adopted accepts as soon as the guard knows who is there: nobody is believed before.
func (h *host) adopted(ctx context.Context) error {
	if err := h.sentry.ready(ctx); err != nil {
		return err
	}
	h.accept()
	return nil
}

// leave stops the work on rules. The addresses are renewed, for the connections that are
// carried on: the other daemon may have no use for them.
func (h *host) leave() {
	h.stop()
	<-h.done
	h.sentry.leave()
	var ctx context.Context
	ctx, h.end = context.WithCancel(context.Background())
	h.ended = make(chan struct{})
	go h.renew(ctx)
}

func (h *host) renew(ctx context.Context) {
	defer close(h.ended)
	ticker := time.NewTicker(h.lease() / 8)
	defer ticker.Stop()
	for {
		for _, d := range h.doors {
			if _, err := (*netns.Namespace)(nil).Lease(d.addr, h.lease()); err != nil {
				h.agent.log.Warn("cannot renew an address that live connections use", "address", d.addr.String(), "error", err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// left has nothing to let go of.
func (h *host) left() {}

// gone ends the work that leave has begun; the addresses go by themselves.
func (h *host) gone() {
	h.end()
	<-h.ended
}

// close takes the addresses away, but for those that connections are to which others carry;
// the listeners are closed by now, or never served.
func (h *host) close() {
	for _, d := range slices.Backward(h.doors) {
		if d.listener != nil {
			d.listener.Close()
		}
		if !h.agent.owns() || h.agent.staying.MustStay(nil) {
			continue
		}
		if err := (*netns.Namespace)(nil).EndLease(d.addr); err != nil {
			h.agent.log.Error("cannot remove the address of mode host; it goes by itself within minutes", "address", d.addr.String(), "error", err)
		}
	}
}

func localOf(conn *net.TCPConn) netip.AddrPort {
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
}
