package fixed

import (
	"context"
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// steady is the router of a listener that knows everything already.
func steady(t testing.TB, change func(*option.Set)) proxy.NonBlockingRouter {
	t.Helper()
	r := resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	a := newWays(ctx, r)
	b := binding.Binding{Port: 80, Text: "10.0.0.1:80,10.0.0.2:80", Options: option.Default()}
	change(&b.Options)
	var err error
	if b.Target, err = r.Parse(b.Text); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(ctx, b.Target, nil); err != nil {
		t.Fatal(err)
	}
	var l listener
	l.service.Store(&forwarding{binding: b})
	return a.fixed(&l)
}

var fromHere = proxy.Accepted{Source: netip.MustParseAddrPort("[::ffff:192.0.2.1]:4000")}

// connect is all that a connection asks of the router.
func connect(t testing.TB, router proxy.NonBlockingRouter) {
	route, c := router.RouteNow(fromHere)
	if route == nil || !c.TryRefresh() {
		t.Fatal("it is not known at once")
	}
	attempt, _ := c.Next()
	attempt.Verdict.Opened()
	attempt.Verdict.Closed(true, false)
}

// TestAllocationsOfARoute: a connection costs its chooser and its verdict. What is
// neither a pool's nor a map's is counted alike with the race detector.
func TestAllocationsOfARoute(t *testing.T) {
	for what, change := range map[string]func(*option.Set){
		"default": func(*option.Set) {},
		"limits":  func(o *option.Set) { o.ClientLimit, o.TargetLimit = 4, 4 },
		"source":  func(o *option.Set) { o.Policy = option.SourceAffinity },
	} {
		{
			router, who := steady(t, change), "listener"
			if n := testing.AllocsPerRun(100, func() { router.RouteNow(fromHere) }); n > 1 {
				t.Errorf("%s, %s: %v allocations for a route; want the chooser", who, what, n)
			}
			if n := testing.AllocsPerRun(100, func() { connect(t, router) }); n > 2 {
				t.Errorf("%s, %s: %v allocations for a connection; want the chooser and the verdict", who, what, n)
			}
		}
	}
}

func BenchmarkRouteNow(b *testing.B) {
	router := steady(b, func(*option.Set) {})
	b.ReportAllocs()
	for b.Loop() {
		router.RouteNow(fromHere)
	}
}

func BenchmarkConnection(b *testing.B) {
	router := steady(b, func(*option.Set) {})
	b.ReportAllocs()
	for b.Loop() {
		connect(b, router)
	}
}
