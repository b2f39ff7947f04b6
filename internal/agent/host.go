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

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/firewalld"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
)

// host is mode host: a fixed address of the host's for each family, a listening
// socket on it, and the chain off PREROUTING that leads all its ports there.
type host struct {
	agent  *agent
	doors  []*door
	sentry *sentry       // nil where source addresses cannot be guarded
	done   chan struct{} // closed when keep has returned
}

// door is the fixed address of one family.
type door struct {
	family   netrules.Family
	addr     netip.Addr
	listener *net.TCPListener
	verified uint64 // the mark of the rules when they were found in order
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
	for _, d := range h.doors {
		if _, err := a.rules.Apply(ctx, nil, d.chain()); err != nil {
			h.takeDown()
			h.close()
			return nil, fmt.Errorf("set the rules of mode host: %w", err)
		}
	}
	for _, d := range h.doors {
		a.accept(ctx, d.listener, proxy.RouterFunc(h.route))
		a.log.Info("listening for containers", "address", d.addr.String(), "listen", d.listener.Addr().String(), "guarded", h.sentry != nil)
	}
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
	d := &door{family: familyOf(addr), addr: addr}
	if addr.Is6() {
		_, err := h.agent.rules.Fingerprint(context.Background(), nil, d.family) // reads, and bounds itself
		six, sixErr := (*netns.Namespace)(nil).HasLoopback6()
		if sixErr != nil {
			return sixErr
		}
		if !six || errors.Is(err, iptables.ErrUnsupported) {
			h.agent.log.Info("IPv6 is off, so its host address is not served", "address", addr.String())
			return nil
		}
	}
	if _, err := (*netns.Namespace)(nil).Lease(addr, h.lease()); err != nil {
		return hint.Wrap(err, "mode host needs CAP_NET_ADMIN in the host's network namespace")
	}
	h.doors = append(h.doors, d) // from here on close undoes it
	var err error
	d.listener, err = firstFree(func(port uint16) (*net.TCPListener, error) {
		return listenTCP(context.Background(), netip.AddrPortFrom(addr, port).String())
	})
	return err
}

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
	h.agent.occasions(ctx, rewritten, func(due bool) {
		for _, d := range h.doors {
			if err := h.repair(ctx, d, due); err != nil && ctx.Err() == nil {
				h.agent.log.Error("cannot repair the rules of mode host; trying again", "address", d.addr.String(), "error", err)
			}
		}
	})
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
	mark, err := h.agent.rules.Fingerprint(ctx, nil, d.family)
	if err != nil || mark == d.verified {
		return err
	}
	changes, err := h.agent.rules.Apply(ctx, nil, d.chain())
	switch {
	case err != nil:
		return err
	case len(changes) == 0:
		d.verified = mark
	default:
		h.agent.log.Warn("repaired the rules of mode host", "address", d.addr.String(), "changes", len(changes))
	}
	return nil
}

func (h *host) update(_ context.Context, table *identity.Table) { h.sentry.follow(table) }

// unhook stops redirecting. The addresses stay, for the connections that are
// carried on.
func (h *host) unhook() {
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

// close takes the addresses away; the listeners are closed by now, or never
// served.
func (h *host) close() {
	for _, d := range slices.Backward(h.doors) {
		if d.listener != nil {
			d.listener.Close()
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
