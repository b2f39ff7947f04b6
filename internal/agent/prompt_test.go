package agent

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// labelled is a container that declares what labels say.
func labelled(name string, labels map[string]string) *dockerd.Container {
	return &dockerd.Container{
		ID: name + "-0123456789abcdef", Name: name, Running: true, Labels: labels,
		Networks: []dockerd.Network{{Name: "u", IPv4: netip.MustParseAddr("127.0.0.1")}},
	}
}

// tableOf makes the table of containers, which the agent follows.
func (a *agent) tableOf(layers *binding.Layers, containers ...*dockerd.Container) *identity.Table {
	table := identity.Build(dockerd.NewSnapshot(containers...), a.table.load(), "", layers, a.resolver.Parse)
	a.table.store(table)
	return table
}

// sameRoute says in what a route that is shared differs from one that is not.
func sameRoute(t *testing.T, route proxy.Route, shared *proxy.Route, c proxy.Chooser) {
	t.Helper()
	if shared.Endpoints != nil {
		t.Error("the shared route has the chooser of one connection")
	}
	alone, ours := route.Endpoints.(*chooser), c.(*chooser)
	if alone.agent != ours.agent || alone.up != ours.up || *alone.client != *ours.client {
		t.Errorf("chooser of %v, %q; want %v, %q", ours.up, ours.client, alone.up, alone.client)
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

// variations are bindings of many kinds, and whether their routes can be shared.
var variations = []struct {
	name   string
	change func(*option.Set)
	shared bool
}{
	{"default", func(*option.Set) {}, true},
	{"client limit", func(o *option.Set) { o.ClientLimit = 3 }, true},
	{"client rate", func(o *option.Set) { o.ClientRate, o.Queue = 7, 2 }, true},
	{"target limit", func(o *option.Set) { o.TargetLimit = 5 }, true},
	{"both limits", func(o *option.Set) { o.TargetLimit, o.ClientLimit = 5, 2 }, true},
	{"drain", func(o *option.Set) { o.OnRemoval, o.DrainAfter = option.Drain, time.Second }, true},
	{"source policy", func(o *option.Set) { o.Policy = option.SourceAffinity }, true},
	{"times", func(o *option.Set) {
		o.Timeout, o.Hedge, o.Wait, o.IdleTimeout, o.MaxLifetime, o.Keepalive = 1, 2, 3, 4, 5, 0
	}, true},
	{"replay", func(o *option.Set) { o.Retry = option.RetryFirstByte }, true},
	{"mark", func(o *option.Set) { o.Mark = 9 }, true},
	{"a source address", func(o *option.Set) { o.SourceAddress.Addr = netip.MustParseAddr("10.9.9.9") }, true},
	{"the client's source address", func(o *option.Set) { o.SourceAddress.Client = true }, false},
	{"proxy v1", func(o *option.Set) { o.ProxyProtocol = option.ProxyV1 }, false},
	{"proxy v2", func(o *option.Set) { o.ProxyProtocol = option.ProxyV2 }, false},
}

// TestAListenersRouteIsSharedAsItIs compares what a listener says at once with what it
// says of a single connection.
func TestAListenersRouteIsSharedAsItIs(t *testing.T) {
	for _, v := range variations {
		t.Run(v.name, func(t *testing.T) {
			withTold(t, v.change, func(t *testing.T, a *agent, _ *told, b binding.Binding) {
				var l fixedListener
				l.service.Store(&fixedService{binding: b})
				f := a.fixed(&l)
				for _, source := range []string{"192.0.2.7:4000", "192.0.2.8:4000", "127.0.0.1:4000", "[2001:db8::1]:4000"} {
					from := netip.MustParseAddrPort(source)
					for _, follow := range []func(){
						func() {},
						func() { a.tableOf(nil, labelled("web", nil)) },
						func() { a.upstreams.keep(a.table.load()) },
						func() { a.tableOf(nil) },
						func() { l.service.Store(&fixedService{binding: b}) },
					} {
						follow()
						alone, err := f.route(l.service.Load(), a.table.load(), way{from: from})
						if err != nil {
							t.Fatal(err)
						}
						for range 2 {
							shared, c := f.RouteNow(proxy.Accepted{Source: netip.AddrPortFrom(netip.AddrFrom16(from.Addr().As16()), from.Port())})
							if (shared != nil) != v.shared {
								t.Fatalf("shared %v; want one: %t", shared, v.shared)
							}
							if v.shared {
								sameRoute(t, alone, shared, c)
							}
						}
					}
				}
			})
		})
	}
}

func TestAListenerFollowsItsService(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *agent, _ *told, b binding.Binding) {
		var l fixedListener
		l.service.Store(&fixedService{binding: b, proxyFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
		f := a.fixed(&l)
		trusted := proxy.Accepted{Source: netip.MustParseAddrPort("[::ffff:192.0.2.1]:1")}
		if r, _ := f.RouteNow(trusted); r != nil {
			t.Error("a trusted peer is not asked for its header")
		}
		if r, _ := f.RouteNow(proxy.Accepted{Source: netip.MustParseAddrPort("[fe80::1]:1")}); r != nil {
			t.Error("the name of a link-local client lacks its zone")
		}
		l.service.Store(&fixedService{binding: b})
		r, _ := f.RouteNow(trusted)
		if again, _ := f.RouteNow(trusted); r == nil || again != r {
			t.Fatalf("routes %p, %p; want one for both", r, again)
		}
		b.Options.Wait = time.Hour
		l.service.Store(&fixedService{binding: b})
		if r, _ = f.RouteNow(trusted); r.Options.Wait != time.Hour {
			t.Error("the service was replaced, and the old one's route goes on")
		}
		for i := range 3 * mostPrompts {
			from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			if r, _ := f.RouteNow(proxy.Accepted{Source: netip.AddrPortFrom(from, 1)}); r.Client.Name != from.String() {
				t.Fatalf("client %s; want %s", r.Client.Name, from)
			}
		}
		if n := len(f.known.all); n > mostPrompts {
			t.Errorf("%d clients are remembered; want at most %d", n, mostPrompts)
		}
	})
}

// TestListenersOfOnePortShareAClientsLimit: it has the bounds of whoever took the last
// connection, also where no route is made anew.
func TestListenersOfOnePortShareAClientsLimit(t *testing.T) {
	withTold(t, func(o *option.Set) { o.ClientLimit = 1 }, func(t *testing.T, a *agent, _ *told, b binding.Binding) {
		var one, two fixedListener
		one.service.Store(&fixedService{binding: b})
		b.Options.ClientLimit = 5
		two.service.Store(&fixedService{binding: b})
		first, second := a.fixed(&one), a.fixed(&two)
		from := proxy.Accepted{Source: netip.MustParseAddrPort("192.0.2.1:1")}
		want := proxy.NewLimit("192.0.2.1 by port 80", "look why it opens so many, or raise client-limit or client-rate of port 80; what labels may ask for, --limit and limits: say", proxy.Bounds{})
		for range 2 {
			for f, bound := range map[*fixedRouter]int{first: 1, second: 5} {
				r, _ := f.RouteNow(from)
				want.Set(proxy.Bounds{Open: bound, Queue: b.Options.Queue})
				if !reflect.DeepEqual(r.Limits[0].Limit(), want) {
					t.Errorf("limit %+v; want %+v", r.Limits[0].Limit(), want)
				}
			}
		}
	})
}

func TestAContainersRouteIsSharedAsItIs(t *testing.T) {
	for _, label := range []struct {
		option, value string
		shared        bool
	}{
		{"policy", "source", true},
		{"client-limit", "4", true},
		{"target-limit", "4", true},
		{"on-removal", "drain", true},
		{"wait", "5s", true},
		{"proxy-protocol", "v1", false},
		{"source-address", "client", false},
	} {
		withTold(t, nil, func(t *testing.T, a *agent, _ *told, _ binding.Binding) {
			web := labelled("web", map[string]string{"connect.80": "told://a", "connect.80." + label.option: label.value, "connect.81": "told://b", "connect.82": "nonsense://"})
			limits := option.Limited{label.option: {}} // allowed
			n := identity.Build(dockerd.NewSnapshot(web), nil, "", &binding.Layers{Limits: limits}, a.resolver.Parse).Owned(web.ID)
			for _, port := range []uint16{80, 81, 82, 83} {
				w := way{netip.MustParseAddrPort("127.0.0.1:4000"), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}
				at := &attachment{presence: newPresence(a)}
				at.desired.Store(n)
				router := &directRouter{at, w.to}
				for range 2 {
					alone, err := a.routeFor(n, w)
					shared, c := router.RouteNow(proxy.Accepted{Source: w.from})
					if want := err == nil && (label.shared || port != 80); (shared != nil) != want {
						t.Fatalf("%s=%s, port %d: shared %v; want one: %t", label.option, label.value, port, shared, want)
					}
					if shared != nil {
						sameRoute(t, alone, shared, c)
					}
				}
			}
		})
	}
}

// TestAContainersRouteIsFollowed: what is declared is replaced with the namespace, and
// what all share with the table.
func TestAContainersRouteIsFollowed(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *agent, _ *told, _ binding.Binding) {
		web := labelled("web", map[string]string{"connect.80": "told://a", "connect.80.target-limit": "4"})
		other := labelled("other", map[string]string{"connect.80": "told://a", "connect.80.target-limit": "4"})
		table := a.tableOf(nil, web)
		at := &attachment{presence: newPresence(a), changed: make(chan struct{}, 1)}
		at.desired.Store(table.Owned(web.ID))
		router := &directRouter{at, netip.MustParseAddrPort("127.0.0.1:80")}
		here := proxy.Accepted{Source: netip.MustParseAddrPort("127.0.0.1:4000")}
		first, _ := router.RouteNow(here)
		if again, _ := router.RouteNow(here); again != first {
			t.Fatal("each connection gets a route of its own")
		}

		a.upstreams.keep(identity.Build(dockerd.NewSnapshot(), nil, "", nil, a.resolver.Parse)) // forgets all
		next, _ := router.RouteNow(here)
		o := table.Owned(web.ID)
		alone, err := a.routeFor(o, way{here.Source, router.addr})
		if err != nil || next.Limits[0] != alone.Limits[0] || next.Limits[0] == first.Limits[0] {
			t.Errorf("limits %v, %v, %v, %v; want the one that is shared by now", first.Limits, next.Limits, alone.Limits, err)
		}

		changed := *web
		changed.Labels = map[string]string{"connect.80": "told://b"}
		changed.Name = "renamed" // or its declarations would be known
		at.follow(a.tableOf(nil, &changed, other).Owned(web.ID))
		if r, _ := router.RouteNow(here); r == nil || r.Target != "told://b" || r.Client.Name != "renamed" || len(r.Limits) > 0 {
			t.Errorf("after a change: %+v", r)
		}
		changed2 := changed
		changed2.Labels, changed2.Name = nil, "web"
		at.follow(a.tableOf(nil, &changed2, other).Owned(web.ID))
		if r, _ := router.RouteNow(here); r != nil {
			t.Errorf("its label is gone, and it is routed to %s", r.Target)
		}
	})
}

func TestRedirectedConnectionsAreRoutedAtOnce(t *testing.T) {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{resolver: resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{}), gate: make(chan struct{})}
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	web := labelled("web", map[string]string{fmt.Sprintf("connect.%d", port): "10.0.0.1:80"})
	n := a.tableOf(nil, web).Owned(web.ID)
	at := &attachment{presence: newPresence(a), ending: make(chan struct{})}
	at.desired.Store(n)
	at.end(false)
	accepted := proxy.Accepted{Source: peerOf(conn)}
	nc := newcomer{presence: newPresence(a), wanted: make(chan struct{}), decided: make(chan struct{}), done: make(chan struct{})}
	close(nc.done)
	if err := raw.Control(func(fd uintptr) {
		accepted.FD = int(fd)
		alone, err := at.Route(t.Context(), conn)
		if err != nil {
			t.Error(err)
			return
		}
		if r, _ := nc.RouteNow(accepted); r != nil {
			t.Error("a connection is routed before it is known whose it is")
		}
		nc.decide(verdict{owner: at})
		at.newcomer = &nc
		handed := make(chan struct{})
		go func() { // while they route
			defer close(handed)
			at.run(t.Context())
		}()
		defer func() { <-handed }()
		for _, router := range []proxy.PromptRouter{at, &nc} {
			shared, c := router.RouteNow(accepted)
			if shared == nil {
				t.Errorf("%T does not know the route at once", router)
				continue
			}
			sameRoute(t, alone, shared, c)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if r, _ := at.RouteNow(proxy.Accepted{FD: -1, Source: accepted.Source}); r != nil {
		t.Errorf("route %+v of no socket", r)
	}
}

// TestTheNextEndpointIsKnownAtOnce: nothing is waited for once there was an answer, and
// the balancer is told of another as it would be otherwise.
func TestTheNextEndpointIsKnownAtOnce(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *agent, source *told, b binding.Binding) {
		if a.chooserFor(t, b).TryRefresh() {
			t.Error("somebody is known before anybody asked")
		}
		a.resolver.Keep([]resolver.Target{b.Target})
		synctest.Wait()
		next := func() (names []string) {
			c := a.chooserFor(t, b)
			if !c.TryRefresh() {
				return nil
			}
			for {
				attempt, ok := c.Next()
				if !ok {
					return names
				}
				attempt.Verdict.Cancelled()
				names = append(names, attempt.Name)
			}
		}
		if got := next(); len(got) != 2 {
			t.Errorf("endpoints %v; want both", got)
		}
		source.say(at("10.0.0.3:80"))
		synctest.Wait()
		if got := next(); len(got) != 1 || got[0] != "10.0.0.3:80" {
			t.Errorf("endpoints %v; want the new one", got)
		}
		time.Sleep(time.Hour) // in which the balancer has forgotten the pool
		if got := next(); len(got) != 1 || a.balancer.Pool(b.Text, balanceOptions(&b.Options)) != a.upstreams.of(&b, nil).pool.Load() {
			t.Errorf("endpoints %v, of a pool that is not the balancer's", got)
		}
		source.say(at())
		synctest.Wait()
		if got := next(); got != nil {
			t.Errorf("endpoints %v; want nobody", got)
		}
	})
}
