package attach

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

// prepare is part of earlyWork.
func (e *earlyNamespace) prepare(ctx context.Context) error {
	err := e.prepareAll(ctx)
	if err != nil {
		e.Log.Debug("a new network namespace was not prepared", "namespace", e.path, "error", err)
	}
	return err
}

// prepareAll opens the namespace and the sockets, or goes on with those that were made, and redirects.
func (e *earlyNamespace) prepareAll(ctx context.Context) error {
	ns, err := netns.Open(e.path)
	if err != nil {
		e.redirects.end()
		e.made.Close()
		return err
	}
	e.ns, e.inside = ns, ns
	if e.made == nil {
		if err := e.listenSoon(ctx); err != nil {
			return err
		}
		e.redirects.begin(place{ns, slices.Collect(maps.Keys(e.listening)), e.listen}, nil)
		return e.redirect(ctx)
	}
	e.listen = e.made.Listen
	for family, listener := range e.made.Listening {
		e.serve(ctx, family, listener, e)
	}
	e.redirects.begin(place{ns, e.made.Families(), e.listen}, nil)
	e.Log.Debug("a new network namespace was prepared in advance", "namespace", e.path, "took", e.made.Took.String())
	return e.redirect(ctx)
}

// closeUselessIPv6 closes the socket at ::1, which was opened before lo was up, if it is seen that
// there will be no such address.
func (e *earlyNamespace) closeUselessIPv6(ctx context.Context) {
	if e.made == nil || e.listening[netrules.IPv6] == nil {
		return
	}
	_ = e.soon(ctx, func() (bool, error) {
		if allowed, err := e.ns.AllowsLoopback6(); err != nil || !allowed {
			if err == nil {
				e.stopListeningOn(netrules.IPv6)
			}
			return true, err
		}
		return e.ns.HasLoopback6()
	})
}

// listenSoon opens the sockets. The engine mounts a namespace a moment before it
// sets lo up in there, and until then there is no address to listen at.
func (e *earlyNamespace) listenSoon(ctx context.Context) error {
	if err := e.soon(ctx, func() (bool, error) {
		err := e.listenOn(ctx, netrules.IPv4, e)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return false, nil
		}
		return true, err
	}); err != nil {
		return err
	}
	// The engine may be turning IPv6 off in there at this moment; if it stays after
	// all, the attachment serves it.
	_ = e.soon(ctx, func() (bool, error) {
		if allowed, err := e.ns.AllowsLoopback6(); err != nil || !allowed {
			return true, err
		}
		there, err := e.ns.HasLoopback6()
		if err != nil || !there {
			return false, err
		}
		return true, e.listenOn(ctx, netrules.IPv6, e)
	})
	return nil
}

// soon calls try again until it is done or fails, or it is too late.
func (e *earlyNamespace) soon(ctx context.Context, try func() (done bool, err error)) error {
	late := time.After(loopbackPatience)
	for {
		if done, err := try(); done || err != nil {
			return err
		}
		select {
		case <-time.After(loopbackInterval):
		case <-late:
			return fmt.Errorf("lo is not up within %s", loopbackPatience)
		case <-e.life.decided:
			return errors.New("it was claimed before lo was up")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// redirect makes the rules for all that may be declared: at once by a message to
// the kernel, where that can be done, and for good by whatever takes longer.
func (e *earlyNamespace) redirect(ctx context.Context) error {
	if len(e.declared()) == 0 {
		return nil // but what the process has made is there for what will be
	}
	began := time.Now()
	if err := e.redirects.cover(); err != nil {
		e.Log.Debug("a new network namespace has to wait for iptables", "namespace", e.path, "error", err)
	}
	inAdvance := time.Since(began)
	if !e.Turn.Await(ctx, e.life.decided) {
		return nil // the attachment that claims it waits for the daemon before us
	}
	if e.borrow(ctx, e) {
		e.applied = true
	}
	e.closeUselessIPv6(ctx)
	ports, served := e.declared(), slices.Sorted(maps.Keys(e.listening))
	defer e.slots.Enter(e.ns)()
	e.applied = true
	_, err := e.Rules.Apply(ctx, e.ns, redirectChains(served, e.listen, ports)...)
	if err != nil && len(served) > 1 {
		_, err = e.Rules.Apply(ctx, e.ns, redirectChains(served[:1], e.listen, ports)...) // as above
	}
	if err != nil {
		return err
	}
	e.redirects.caughtUp(ports)
	e.surplus.drop()
	e.Log.Debug("prepared a new network namespace", "namespace", e.path, "ports", portsOf(ports),
		"in_advance", inAdvance.String(), "took", time.Since(began).String())
	return nil
}
