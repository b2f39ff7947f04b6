package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

const (
	// loopbackPatience is how long to wait for lo in a new namespace, and
	// loopbackInterval how often to look for it.
	loopbackPatience = 5 * time.Second
	loopbackInterval = time.Millisecond
)

// prepare accepts first: sockets, and then rules for all that may be declared.
func (nc *newcomer) prepare(ctx context.Context) error {
	ns, err := netns.Open(nc.path)
	if err != nil {
		nc.ahead.end()
		nc.made.Close()
		return err
	}
	nc.ns, nc.inside = ns, ns
	if nc.made == nil {
		if err := nc.listenSoon(ctx); err != nil {
			return err
		}
		nc.ahead.begin(place{ns, slices.Collect(maps.Keys(nc.listening)), nc.listen}, nil)
		return nc.redirect(ctx)
	}
	nc.listen = nc.made.Listen
	for family, listener := range nc.made.Listening {
		nc.serve(ctx, family, listener, nc)
	}
	nc.ahead.begin(place{ns, nc.made.Families(), nc.listen}, nil)
	nc.agent.log.Debug("a new network namespace was prepared in advance", "namespace", nc.path, "took", nc.made.Took.String())
	return nc.redirect(ctx)
}

// settleIPv6 closes the socket at ::1, which was opened before lo was up, if it is seen that
// there will be no such address.
func (nc *newcomer) settleIPv6(ctx context.Context) {
	if nc.made == nil || nc.listening[netrules.IPv6] == nil {
		return
	}
	_ = nc.soon(ctx, func() (bool, error) {
		if allowed, err := nc.ns.AllowsLoopback6(); err != nil || !allowed {
			if err == nil {
				nc.stopListeningOn(netrules.IPv6)
			}
			return true, err
		}
		return nc.ns.HasLoopback6()
	})
}

// listenSoon opens the sockets. The engine mounts a namespace a moment before it
// sets lo up in there, and until then there is no address to listen at.
func (nc *newcomer) listenSoon(ctx context.Context) error {
	if err := nc.soon(ctx, func() (bool, error) {
		err := nc.listenOn(ctx, netrules.IPv4, nc)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return false, nil
		}
		return true, err
	}); err != nil {
		return err
	}
	// The engine may be turning IPv6 off in there at this moment; if it stays after
	// all, the attachment serves it.
	_ = nc.soon(ctx, func() (bool, error) {
		if allowed, err := nc.ns.AllowsLoopback6(); err != nil || !allowed {
			return true, err
		}
		there, err := nc.ns.HasLoopback6()
		if err != nil || !there {
			return false, err
		}
		return true, nc.listenOn(ctx, netrules.IPv6, nc)
	})
	return nil
}

// soon calls try again until it is done or fails, or it is too late.
func (nc *newcomer) soon(ctx context.Context, try func() (done bool, err error)) error {
	late := time.After(loopbackPatience)
	for {
		if done, err := try(); done || err != nil {
			return err
		}
		select {
		case <-time.After(loopbackInterval):
		case <-late:
			return fmt.Errorf("lo is not up within %s", loopbackPatience)
		case <-nc.decided:
			return errors.New("it was claimed before lo was up")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// redirect makes the rules for all that may be declared: at once by a message to
// the kernel, where that can be done, and for good by whatever takes longer.
func (nc *newcomer) redirect(ctx context.Context) error {
	if len(nc.declared()) == 0 {
		return nil // but what is made in advance is there for what will be
	}
	began := time.Now()
	if err := nc.ahead.cover(); err != nil {
		nc.agent.log.Debug("a new network namespace has to wait for iptables", "namespace", nc.path, "error", err)
	}
	inAdvance := time.Since(began)
	if !nc.agent.own(ctx, nc.decided) {
		return nil // whoever claims it waits for the daemon before us
	}
	if nc.borrow(ctx, nc) {
		nc.applied = true
	}
	nc.settleIPv6(ctx)
	ports, served := nc.declared(), slices.Sorted(maps.Keys(nc.listening))
	defer nc.lanes.Enter(nc.ns)()
	nc.applied = true
	_, err := nc.agent.rules.Apply(ctx, nc.ns, redirectChains(served, nc.listen, ports)...)
	if err != nil && len(served) > 1 {
		_, err = nc.agent.rules.Apply(ctx, nc.ns, redirectChains(served[:1], nc.listen, ports)...) // as above
	}
	if err != nil {
		return err
	}
	nc.ahead.caughtUp(ports)
	nc.surplus.drop()
	nc.agent.log.Debug("prepared a new network namespace", "namespace", nc.path, "ports", portsOf(ports),
		"in_advance", inAdvance.String(), "took", time.Since(began).String())
	return nil
}
