package attach

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// told is a source that says what a test tells it.
type told struct {
	mu      sync.Mutex
	answer  resolver.Answer
	changed chan struct{}
}

func (s *told) say(a resolver.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = a
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

func (s *told) Check(resolver.Query) error { return nil }

func (s *told) Watch(ctx context.Context, _ resolver.Query, publish func(resolver.Answer)) error {
	for {
		s.mu.Lock()
		answer, changed := s.answer, s.changed
		s.mu.Unlock()
		publish(answer)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// labelled is a container that declares what labels say.
func labelled(name string, labels map[string]string) *dockerd.Container {
	return &dockerd.Container{
		ID: name + "-0123456789abcdef", Name: name, Running: true, Labels: labels,
		Networks: []dockerd.Network{{Name: "u", IPv4: netip.MustParseAddr("127.0.0.1")}},
	}
}

// routing is a mode's configuration of which only routes are asked, and what knows targets.
type routing struct {
	Config
	targets *resolver.Resolver
}

func newRouting(ctx context.Context, sources map[string]resolver.Source, pools route.Pools) *routing {
	targets := resolver.New(sources, resolver.Options{})
	current := settings.NewCurrent(settings.New(config.Default(), nil, nil))
	clients, log := new(identity.Latest), slog.New(slog.DiscardHandler)
	hold := &hold.Hold{Clients: clients, Settings: current}
	return &routing{targets: targets, Config: Config{
		Name: config.Redirect, Settings: current, Clients: clients, Hold: hold, Turn: new(handover.Turn), Log: log,
		Routes: route.New(ctx, route.Config{Targets: targets, Pools: pools, Settings: current, Clients: clients, Hold: hold, Log: log}),
	}}
}

// tableOf makes the table of containers the latest.
func (r *routing) tableOf(layers *binding.Layers, containers ...*dockerd.Container) *identity.Table {
	table := identity.Build(dockerd.NewSnapshot(containers...), r.Clients.Load(), "", layers, r.targets.Parse)
	r.Clients.Store(table)
	return table
}

// withTold runs test in a bubble, with what routes to targets of which a test tells.
func withTold(t *testing.T, test func(t *testing.T, r *routing)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		source := &told{}
		source.say(resolver.Answer{Endpoints: []resolver.Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Name: "10.0.0.1:80"}}})
		ctx, cancel := context.WithCancel(t.Context())
		pools := balance.New(balance.Config{})
		r := newRouting(ctx, map[string]resolver.Source{"told": source}, pools)
		var running sync.WaitGroup
		running.Go(func() { _ = r.targets.Run(ctx) })
		running.Go(func() { _ = pools.Run(ctx) })
		test(t, r)
		cancel()
		r.Routes.Wait()
		running.Wait()
	})
}

// sameRoute says in what a route that is shared differs from one that is not.
func sameRoute(t *testing.T, route proxy.Route, shared *proxy.Route, c proxy.Chooser) {
	t.Helper()
	if shared.Endpoints != nil {
		t.Error("the shared route has the chooser of one connection")
	}
	alone, ours := reflect.ValueOf(route.Endpoints).Elem(), reflect.ValueOf(c).Elem()
	for _, field := range []string{"router", "set"} { // one router, and one set of servers
		if alone.FieldByName(field).Pointer() != ours.FieldByName(field).Pointer() {
			t.Errorf("the chooser has another %s", field)
		}
	}
	for _, field := range []string{"Key", "Name"} {
		want, got := alone.FieldByName("client").Elem().FieldByName(field), ours.FieldByName("client").Elem().FieldByName(field)
		if want.String() != got.String() {
			t.Errorf("the chooser's client has the %s %q; want %q", field, got, want)
		}
	}
	want, got := reflect.ValueOf(route), reflect.ValueOf(*shared)
	for i := range want.NumField() {
		field := want.Type().Field(i)
		switch a, b := want.Field(i), got.Field(i); {
		case field.Name == "Endpoints":
		case field.Type.Kind() == reflect.Func:
			if a.IsNil() != b.IsNil() {
				t.Errorf("%s is there: %t; want %t", field.Name, !b.IsNil(), !a.IsNil())
			}
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			t.Errorf("%s = %v; want %v", field.Name, b, a)
		}
	}
	for i, l := range shared.Limits {
		if l != route.Limits[i] {
			t.Errorf("limit %d is another one", i)
		}
	}
}
