package route

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/proxyproto"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// router is a Router, and what it is made of.
type router struct {
	*Router
	resolver *resolver.Resolver
	balancer *balance.Registry
	audience *Audience
}

// newRouter makes a Router of r's targets until ctx ends.
func newRouter(ctx context.Context, r *resolver.Resolver) *router {
	a := &router{resolver: r, balancer: balance.New(balance.Config{})}
	a.Router = New(ctx, Config{
		Targets: r, Pools: a.balancer, Settings: settings.NewCurrent(settings.New(config.Config{}, nil, nil)), Clients: new(identity.Latest),
		Log: slog.New(slog.DiscardHandler),
	})
	a.audience = NewAudience(a.Router, r.Parse)
	return a
}

// follows makes the table of containers, which the router follows.
func (a *router) tableOf(layers *binding.Layers, containers ...*dockerd.Container) *identity.Table {
	table := identity.Build(dockerd.NewSnapshot(containers...), a.clients.Load(), "", layers, a.resolver.Parse)
	a.clients.Store(table)
	return table
}

// withTold runs test in a bubble, with a router, and a binding to a target of source's.
func withTold(t *testing.T, options func(*option.Set), test func(t *testing.T, a *router, source *routetest.Told, b binding.Binding)) {
	t.Helper()
	routetest.InBubble(t, func(t *testing.T, told *routetest.Bubble) {
		a := newRouter(told.Context, told.Resolver)
		told.Run(a.balancer.Run)
		test(t, a, told.Source, told.Binding(t, options))
		told.End()
		a.Wait()
	})
}

func (a *router) chooserFor(t *testing.T, b binding.Binding) proxy.Chooser {
	t.Helper()
	route, err := a.Bound(proxy.Route{Client: proxy.Client{Name: "web", ID: "0123"}, Port: b.Port}, &b,
		Flow{netip.MustParseAddrPort("172.17.0.2:4000"), netip.MustParseAddrPort("127.0.0.1:80")}, "0123", nil)
	if err != nil {
		t.Fatal(err)
	}
	return route.Endpoints
}

func TestChooserGoesRoundAndFollowsTheTarget(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
		c := a.chooserFor(t, b)
		for range 2 {
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			seen := map[string]int{}
			for left := 2; left > 0; left-- {
				attempt, ok := c.Next()
				if !ok || attempt.Left != left || attempt.Name != attempt.Addr.String() {
					t.Fatalf("attempt %+v, %v; want one of %d that are left", attempt, ok, left)
				}
				attempt.Verdict.Cancelled()
				seen[attempt.Name]++
			}
			if _, ok := c.Next(); ok || len(seen) != 2 {
				t.Fatalf("the round gave %v, and more: %v; want each once", seen, ok)
			}
		}
		changed := make(chan struct{})
		go func() { defer close(changed); c.Changed(t.Context()) }()
		synctest.Wait()
		source.Say(resolver.Answer{Note: "all are gone"})
		<-changed
		if err := c.Refresh(t.Context()); proxy.ReasonOf(err) != proxy.NoEndpoints || !strings.Contains(err.Error(), "all are gone") {
			t.Errorf("with nobody left: %v", err)
		}
		go func() { time.Sleep(time.Second); source.Say(routetest.At("10.0.0.3:80")) }()
		c.Changed(t.Context())
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if attempt, ok := c.Next(); !ok || attempt.Name != "10.0.0.3:80" || attempt.Left != 1 {
			t.Errorf("attempt %+v, %v; want the new endpoint", attempt, ok)
		}
	})
}

// Bindings that differ only in what does not concern the balancer share a pool, which is
// not to be filled anew for each in turn; nor for each connection while a source fails.
func TestAPoolIsFilledOnce(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
		other := b
		other.Options.IdleTimeout = time.Hour
		refreshed := func(b binding.Binding) *resolver.Resolution {
			c := a.chooserFor(t, b).(*chooser)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			return c.set.last.Load().given
		}
		first := refreshed(b)
		same := func(when string) {
			t.Helper()
			for range 3 {
				if refreshed(other) != first || refreshed(b) != first {
					t.Fatalf("%s: the same endpoints come as others; the pool is filled anew each time", when)
				}
			}
		}
		same("at rest")
		source.Say(resolver.Answer{Err: errors.New("the registry is down")})
		synctest.Wait()
		same("while the source fails")
		source.Say(routetest.At("10.0.0.1:80", "10.0.0.2:80"))
		synctest.Wait()
		same("after it says the same again")
		source.Say(routetest.At("10.0.0.1:80"))
		synctest.Wait()
		if refreshed(b) == first {
			t.Error("an endpoint has gone, and the pool is not told")
		}
	})
}

func TestOneContainersFailureIsKnownToAll(t *testing.T) {
	withTold(t, func(o *option.Set) { o.EjectAfter = 2 }, func(t *testing.T, a *router, _ *routetest.Told, b binding.Binding) {
		for range 2 { // twice the first endpoint fails one client
			c := a.chooserFor(t, b)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			for {
				attempt, ok := c.Next()
				if !ok {
					break
				}
				if attempt.Name == "10.0.0.1:80" {
					attempt.Verdict.Failed(errors.New("refused"))
				} else {
					attempt.Verdict.Cancelled()
				}
			}
		}
		for range 20 {
			c := a.chooserFor(t, b)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			attempt, _ := c.Next()
			attempt.Verdict.Cancelled()
			if attempt.Name != "10.0.0.2:80" {
				t.Fatalf("%s comes first; want it ejected", attempt.Name)
			}
		}
	})
}

func TestATooShortAttemptIsNobodysFailure(t *testing.T) {
	withTold(t, func(o *option.Set) { o.EjectAfter = 1 }, func(t *testing.T, a *router, _ *routetest.Told, b binding.Binding) {
		failures := func() (n int) {
			for _, s := range a.balancer.Pool(b.Text, balanceOptions(&b.Options)).Status().Members {
				n += s.Health.Failures
			}
			return n
		}
		c := a.chooserFor(t, b)
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		attempt, _ := c.Next()
		attempt.Verdict.Failed(context.DeadlineExceeded)
		if n := failures(); n != 0 {
			t.Errorf("%d failures after an attempt of no length; want none", n)
		}
		attempt, _ = c.Next()
		time.Sleep(time.Second)
		attempt.Verdict.Failed(context.DeadlineExceeded)
		if n := failures(); n != 1 {
			t.Errorf("%d failures after a second without an answer; want one", n)
		}
	})
}

// TestAnOwnWayIsNobodysFailure: what fails for one who dials otherwise than others do does
// not count for them.
func TestAnOwnWayIsNobodysFailure(t *testing.T) {
	refused := errors.New("refused")
	for name, test := range map[string]struct {
		change func(*option.Set)
		report func(proxy.Verdict)
		counts bool
	}{
		"as all do":      {func(*option.Set) {}, func(v proxy.Verdict) { v.Failed(refused) }, true},
		"a longer wait":  {func(o *option.Set) { o.Wait = time.Minute }, func(v proxy.Verdict) { v.Failed(refused) }, true},
		"a mark":         {func(o *option.Set) { o.Mark = 7 }, func(v proxy.Verdict) { v.Failed(refused) }, false},
		"a source":       {func(o *option.Set) { o.SourceAddress.Client = true }, func(v proxy.Verdict) { v.Failed(refused) }, false},
		"a PROXY header": {func(o *option.Set) { o.ProxyProtocol = option.ProxyV2 }, func(v proxy.Verdict) { v.Opened(); v.Closed(false, true) }, false},
		"no header":      {func(*option.Set) {}, func(v proxy.Verdict) { v.Opened(); v.Closed(false, true) }, true},
		"less time than others give it": {func(o *option.Set) { o.AttemptTimeout = 600 * time.Millisecond },
			func(v proxy.Verdict) { time.Sleep(600 * time.Millisecond); v.Failed(context.DeadlineExceeded) }, false},
		"less time, but as much as others": {func(o *option.Set) { o.Timeout = 3 * time.Second },
			func(v proxy.Verdict) { time.Sleep(1500 * time.Millisecond); v.Failed(context.DeadlineExceeded) }, true},
	} {
		withTold(t, test.change, func(t *testing.T, a *router, _ *routetest.Told, b binding.Binding) {
			c := a.chooserFor(t, b)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			attempt, _ := c.Next()
			test.report(attempt.Verdict)
			n := 0
			for _, s := range a.balancer.Status() {
				n += s.Failures
			}
			if (n > 0) != test.counts {
				t.Errorf("%s: %d failures; want any: %t", name, n, test.counts)
			}
		})
	}
}

func TestConnectionsAreDrainedWhenTheirEndpointLeaves(t *testing.T) {
	withTold(t, func(o *option.Set) { o.OnRemoval, o.DrainAfter = option.Drain, time.Minute }, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
		begin := time.Now()
		cut := map[string]time.Duration{}
		var mu sync.Mutex
		open := func(addr string) (closed func()) {
			return a.removals.opened(a.sets.of(&b, nil))(usedAt(addr), func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if proxy.ReasonOf(err) != proxy.EndpointRemoved {
					t.Errorf("cut off for %v", err)
				}
				cut[addr] = time.Since(begin)
			})
		}
		closeFirst, closeSecond := open("10.0.0.1:80"), open("10.0.0.2:80")
		synctest.Wait()
		source.Say(routetest.At("10.0.0.2:80")) // the first leaves, and is back before the minute is over
		time.Sleep(50 * time.Second)
		source.Say(routetest.At("10.0.0.1:80", "10.0.0.2:80"))
		time.Sleep(50 * time.Second)
		source.Say(resolver.Answer{Err: errors.New("the registry is down")}) // says nothing of endpoints
		time.Sleep(10 * time.Minute)
		if len(cut) != 0 {
			t.Errorf("cut off: %v; want none while their endpoints are there, or may be", cut)
		}
		begin = time.Now()
		source.Say(routetest.At("10.0.0.1:80"))
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		mu.Lock()
		if len(cut) != 1 || cut["10.0.0.2:80"].Round(time.Second) != time.Minute {
			t.Errorf("cut off: %v; want the second's alone, a minute after it left", cut)
		}
		mu.Unlock()
		closeFirst()
		closeSecond()
		source.Say(routetest.At("10.0.0.9:80"))
		time.Sleep(2 * time.Minute)
		a.removals.mu.Lock()
		defer a.removals.mu.Unlock()
		if len(a.removals.used) != 0 {
			t.Errorf("%d targets are followed for nobody", len(a.removals.used))
		}
	})
}

func TestLimitsAreSharedByThoseWhoSayTheSame(t *testing.T) {
	withTold(t, func(o *option.Set) { o.TargetLimit, o.ClientLimit = 5, 3 }, func(t *testing.T, a *router, _ *routetest.Told, b binding.Binding) {
		up := a.sets.of(&b, nil)
		other := b
		other.Options.Hedge = time.Second // another binding, the same limit of the target
		if a.sets.of(&other, nil) == up || a.sets.of(&other, nil).limit != up.limit {
			t.Error("bindings that differ in something else do not share the target's limit")
		}
		one, two := a.sets.limitsOf(up, "1", "1", "web", &b), a.sets.limitsOf(up, "2", "2", "shop", &b)
		again := a.sets.limitsOf(a.sets.of(&other, nil), "1", "1", "web", &other)
		if len(one) != 2 || one[0] == two[0] || one[1].Limit() != two[1].Limit() || one[0] != again[0] || one[1] != again[1] {
			t.Errorf("limits %v, %v, %v; want each client its own, by port, and one for the target", one, two, again)
		}
		table := identity.Build(dockerd.NewSnapshot(), nil, "", nil, a.resolver.Parse)
		a.sets.keep(table)
		if len(a.sets.limits)+len(a.sets.clients) != 0 || a.sets.of(&b, nil) == up {
			t.Errorf("limits %v, %v are kept for nobody", a.sets.limits, a.sets.clients)
		}
	})
}

func TestSourceSeen(t *testing.T) {
	n := &identity.Namespace{Owner: &dockerd.Container{Networks: []dockerd.Network{
		{IPv4: netip.MustParseAddr("172.18.0.3"), IPv6: netip.MustParseAddr("fd00::3")},
	}}}
	alone := &identity.Namespace{Owner: &dockerd.Container{}}
	for _, test := range []struct {
		n          *identity.Namespace
		from, want string
	}{
		{n, "127.0.0.1:4000", "172.18.0.3:4000"},
		{n, "[::1]:4000", "[fd00::3]:4000"},
		{n, "172.18.0.9:4000", "172.18.0.9:4000"},
		{alone, "127.0.0.1:4000", "127.0.0.1:4000"},
	} {
		if got := sourceSeen(test.n, netip.MustParseAddrPort(test.from)); got.String() != test.want {
			t.Errorf("%s is seen as %s; want %s", test.from, got, test.want)
		}
	}
}

// TestWhatHoldsForAllAfterAReload: whether an upstream is dialled as others dial its target
// goes by the configuration that holds now, also for a binding that was read before; and
// another that says the same leaves it as it is.
func TestWhatHoldsForAllAfterAReload(t *testing.T) {
	withTold(t, func(o *option.Set) { o.Mark = 7 }, func(t *testing.T, a *router, _ *routetest.Told, b binding.Binding) {
		says := func(mark string) *binding.Layers {
			return &binding.Layers{Defaults: []option.Layer{{{Name: "mark", Text: mark}}}}
		}
		before := a.sets.of(&b, says("7"))
		if before.ownWay {
			t.Fatal("dialled as all others, it counts as dialled in a way of its own")
		}
		if a.sets.of(&b, says("7")) != before {
			t.Error("a reload that changes nothing makes it anew")
		}
		after := says("8")
		if now := a.sets.of(&b, after); !now.ownWay || a.sets.of(&b, after) != now {
			t.Error("all others have another mark by now, and it does not count as dialled in a way of its own")
		}
	})
}

// TestChecksSendTheHeader: a check of an endpoint that expects a PROXY header sends one that
// speaks for nobody, or it would take the endpoint for dead.
func TestChecksSendTheHeader(t *testing.T) {
	for name, test := range map[string]struct {
		set  option.Set
		want string
	}{
		"none":            {option.Set{ProxyProtocol: option.ProxyOff}, ""},
		"version 1":       {option.Set{ProxyProtocol: option.ProxyV1}, proxyproto.Local(1)},
		"version 2":       {option.Set{ProxyProtocol: option.ProxyV2}, proxyproto.Local(2)},
		"of another port": {option.Set{ProxyProtocol: option.ProxyV2, CheckPort: 9000}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			test.set.Check, test.set.EjectMost = option.CheckTCP, 50
			if got := balanceOptions(&test.set).Check.Preface; got != test.want {
				t.Errorf("the check begins with %q; want %q", got, test.want)
			}
		})
	}
}
