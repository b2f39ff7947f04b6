package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// used is a Verdict on an endpoint that nobody balances.
type used struct {
	proxy.Verdict
	endpoint proxy.Endpoint
}

func (u used) Endpoint() proxy.Endpoint { return u.endpoint }

func usedAt(addr string) proxy.Verdict {
	return used{endpoint: proxy.Endpoint{Addr: netip.MustParseAddrPort(addr)}}
}

// cuts are the connections that were cut off: when, and for which reason.
type cuts struct {
	mu    sync.Mutex
	began time.Time
	all   map[string]string
}

func (c *cuts) of(t *testing.T, name string) func(error) {
	return func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all[name] = fmt.Sprintf("%s after %s", proxy.ReasonOf(err), time.Since(c.began).Round(time.Second))
		if hint.Of(err) == "" {
			t.Errorf("%v has no hint", err)
		}
	}
}

func (c *cuts) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began, c.all = time.Now(), map[string]string{}
}

func (c *cuts) want(t *testing.T, what string, want map[string]string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !maps.Equal(c.all, want) {
		t.Errorf("%s: cut off %v; want %v", what, c.all, want)
	}
}

// TestConnectionsOfEndpointsThatTheRegistryFindsUnhealthy: what becomes of them says
// on-unhealthy, if that says it, else on-removal.
func TestConnectionsOfEndpointsThatTheRegistryFindsUnhealthy(t *testing.T) {
	const unhealthy, leaves = "10.0.0.1:80", "10.0.0.2:80"
	for _, test := range []struct {
		onUnhealthy option.OnUnhealthy
		onRemoval   option.OnRemoval
		want        map[string]string
	}{
		{option.UnhealthyAuto, option.Keep, map[string]string{}},
		{option.UnhealthyAuto, option.Drain, map[string]string{unhealthy: "endpoint_removed after 1m0s", leaves: "endpoint_removed after 1m0s"}},
		{option.UnhealthyClose, option.Keep, map[string]string{unhealthy: "endpoint_unhealthy after 0s"}},
		{option.UnhealthyDrain, option.Keep, map[string]string{unhealthy: "endpoint_unhealthy after 1m0s"}},
		{option.UnhealthyClose, option.Drain, map[string]string{unhealthy: "endpoint_unhealthy after 0s", leaves: "endpoint_removed after 1m0s"}},
		{option.UnhealthyKeep, option.Drain, map[string]string{leaves: "endpoint_removed after 1m0s"}},
	} {
		withTold(t, func(o *option.Set) {
			o.OnUnhealthy, o.OnRemoval, o.DrainAfter = test.onUnhealthy, test.onRemoval, time.Minute
		}, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
			name := fmt.Sprintf("on-unhealthy=%s, on-removal=%s", test.onUnhealthy, test.onRemoval)
			source.Say(routetest.At(unhealthy, leaves, "10.0.0.3:80"))
			opened := a.removals.opened(a.sets.of(&b, nil))
			if opened == nil {
				if len(test.want) > 0 {
					t.Errorf("%s: nothing is ever cut off", name)
				}
				return
			}
			var c cuts
			c.begin()
			for _, addr := range []string{unhealthy, leaves, "10.0.0.3:80"} {
				defer opened(usedAt(addr), c.of(t, addr))()
			}
			synctest.Wait()
			answer := routetest.At("10.0.0.3:80")
			answer.LeftOut = []resolver.LeftOut{{Addr: unhealthy, Why: "is critical", Unhealthy: true}, {Addr: "10.0.0.3:80", Why: "is in maintenance"}}
			source.Say(answer)
			time.Sleep(2 * time.Minute)
			c.want(t, name, test.want)
			// Where all are unhealthy there is nobody, which is no failure of the source.
			c.begin()
			source.Say(resolver.Answer{LeftOut: []resolver.LeftOut{{Addr: "10.0.0.3:80", Why: "is critical", Unhealthy: true}}})
			time.Sleep(2 * time.Minute)
			c.mu.Lock()
			defer c.mu.Unlock()
			if _, cut := c.all["10.0.0.3:80"]; cut != (test.want[unhealthy] != "") {
				t.Errorf("%s: the last one was cut off: %t", name, cut)
			}
		})
	}
}

// TestConnectionsOfEndpointsThatFailTheirChecks are closed by default, and those of others,
// ejected ones among them, are not.
func TestConnectionsOfEndpointsThatFailTheirChecks(t *testing.T) {
	for _, test := range []struct {
		onUnhealthy option.OnUnhealthy
		recovers    bool
		want        map[string]string
	}{
		{option.UnhealthyAuto, false, map[string]string{"10.0.0.1:80": "endpoint_unhealthy after 10s"}},
		{option.UnhealthyClose, false, map[string]string{"10.0.0.1:80": "endpoint_unhealthy after 10s"}},
		{option.UnhealthyDrain, false, map[string]string{"10.0.0.1:80": "endpoint_unhealthy after 1m10s"}},
		{option.UnhealthyDrain, true, map[string]string{}},
		{option.UnhealthyKeep, false, map[string]string{}},
	} {
		withTold(t, func(o *option.Set) {
			o.OnUnhealthy, o.DrainAfter = test.onUnhealthy, time.Minute
			o.Check, o.CheckInterval, o.CheckJitter, o.CheckFall = option.CheckTCP, 5*time.Second, 0, 3
			o.EjectAfter = 1
		}, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
			synctest.Wait() // another balancer runs
			var mu sync.Mutex
			down := false
			checked := balance.New(balance.Config{OwnFault: proxy.OwnFault, Dial: func(_ context.Context, addr netip.AddrPort) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				if down && addr == netip.MustParseAddrPort("10.0.0.1:80") {
					return nil, errors.New("frozen")
				}
				ours, theirs := net.Pipe()
				theirs.Close()
				return ours, nil
			}})
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			a.pools = checked
			go func() { _ = checked.Run(ctx) }()
			source.Say(routetest.At("10.0.0.1:80", "10.0.0.2:80"))
			opened := a.removals.opened(a.sets.of(&b, nil))
			if opened == nil {
				if test.onUnhealthy != option.UnhealthyKeep {
					t.Errorf("on-unhealthy=%s: nothing is ever cut off", test.onUnhealthy)
				}
				return
			}
			var c cuts
			c.begin()
			for range 2 {
				chooser := a.chooserFor(t, b)
				if err := chooser.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				for attempt, ok := chooser.Next(); ok; attempt, ok = chooser.Next() {
					attempt.Verdict.Opened()
					closed := opened(attempt.Verdict, c.of(t, attempt.Addr.String()))
					defer attempt.Verdict.Closed(true, false)
					defer closed()
				}
			}
			time.Sleep(12 * time.Second) // some checks are good, the last 2 s ago
			mu.Lock()
			down = true
			mu.Unlock()
			time.Sleep(3 * time.Second) // the next is due
			c.begin()
			time.Sleep(30 * time.Second)
			if test.recovers {
				mu.Lock()
				down = false
				mu.Unlock()
			}
			time.Sleep(2 * time.Minute)
			c.want(t, fmt.Sprintf("on-unhealthy=%s, recovers: %t", test.onUnhealthy, test.recovers), test.want)
			stop()
			synctest.Wait()
		})
	}
}

// TestConnectionsGoBackToAPreferredChoice where that is asked for, once it has been back for a
// while; an endpoint of a later choice has not left the target.
func TestConnectionsGoBackToAPreferredChoice(t *testing.T) {
	for _, test := range []struct {
		failBack, onRemoval option.OnRemoval
		want                map[string]string
	}{
		{option.Keep, option.Drain, map[string]string{}},
		{option.Drain, option.Keep, map[string]string{"second": "failed_back after 1m0s"}},
	} {
		withTold(t, func(o *option.Set) {
			o.FailBack, o.OnRemoval, o.DrainAfter = test.failBack, test.onRemoval, time.Minute
		}, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
			other := &routetest.Told{}
			other.Say(routetest.At("10.0.0.9:80"))
			r := resolver.New(map[string]resolver.Source{"told": source, "other": other}, resolver.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- r.Run(ctx) }()
			removals := newRemovals(ctx, r)
			var err error
			if b.Target, err = r.Parse("told://a | other://b"); err != nil {
				t.Fatal(err)
			}
			source.Say(resolver.Answer{})
			var c cuts
			c.begin()
			defer removals.opened(a.sets.of(&b, nil))(usedAt("10.0.0.9:80"), c.of(t, "second"))()
			synctest.Wait()
			time.Sleep(time.Hour)
			source.Say(routetest.At("10.0.0.1:80")) // for 50 s only
			time.Sleep(50 * time.Second)
			source.Say(resolver.Answer{})
			time.Sleep(time.Hour)
			c.want(t, "while the first choice is not there for long", map[string]string{})
			c.begin()
			source.Say(routetest.At("10.0.0.1:80"))
			time.Sleep(time.Hour)
			c.want(t, fmt.Sprintf("fail-back=%s, on-removal=%s", test.failBack, test.onRemoval), test.want)
			cancel()
			removals.watching.Wait()
			<-ran
		})
	}
}

// TestChainsMoveOnByChecks: while checks find all of the first choice dead the next one serves,
// and its connections are not to go back before the first serves again.
func TestChainsMoveOnByChecks(t *testing.T) {
	withTold(t, func(o *option.Set) {
		o.FailBack, o.DrainAfter, o.Check, o.CheckInterval = option.Drain, time.Minute, option.CheckTCP, 5*time.Second
	}, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
		other := &routetest.Told{}
		other.Say(routetest.At("10.0.0.9:80"))
		r := resolver.New(map[string]resolver.Source{"told": source, "other": other}, resolver.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		var dead atomic.Bool
		synctest.Wait() // the balancer and the resolver of before run by now
		checked := balance.New(balance.Config{Dial: func(_ context.Context, addr netip.AddrPort) (net.Conn, error) {
			if dead.Load() && addr != netip.MustParseAddrPort("10.0.0.9:80") {
				return nil, errors.New("frozen")
			}
			conn, _ := net.Pipe()
			return conn, nil
		}})
		a.targets, a.pools = r, checked
		running.Go(func() { _ = checked.Run(ctx) })
		removals := newRemovals(ctx, r)
		var err error
		if b.Target, err = r.Parse("told://a | other://b"); err != nil {
			t.Fatal(err)
		}
		c := a.chooserFor(t, b)
		chosen := func() string {
			t.Helper()
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			attempt, ok := c.Next()
			if !ok {
				t.Fatal("nobody was chosen")
			}
			attempt.Verdict.Cancelled()
			return attempt.Endpoint.Name
		}
		if got := chosen(); got == "10.0.0.9:80" {
			t.Errorf("chosen: %s, of the later choice", got)
		}
		dead.Store(true)
		time.Sleep(time.Minute)
		if got := chosen(); got != "10.0.0.9:80" {
			t.Errorf("chosen: %s, whose checks fail", got)
		}
		var connections cuts
		connections.begin()
		defer removals.opened(a.sets.of(&b, nil))(usedAt("10.0.0.9:80"), connections.of(t, "second"))()
		for range 30 {
			time.Sleep(time.Minute)
			if got := chosen(); got != "10.0.0.9:80" {
				t.Errorf("chosen: %s, whose checks fail", got)
			}
		}
		connections.want(t, "while the first choice is dead", map[string]string{})
		dead.Store(false)
		time.Sleep(time.Minute)
		if got := chosen(); got == "10.0.0.9:80" {
			t.Errorf("chosen: %s, of the later choice", got)
		}
		time.Sleep(time.Hour)
		if connections.mu.Lock(); len(connections.all) != 1 {
			t.Errorf("cut off: %v; want that it has gone back", connections.all)
		}
		connections.mu.Unlock()
		cancel()
		removals.watching.Wait()
		running.Wait()
	})
}
