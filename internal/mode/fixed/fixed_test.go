package fixed

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

// ways is what listeners need, of a test's own, and the parts behind it.
type ways struct {
	Config
	resolver *resolver.Resolver
	settings *settings.Current
}

// newWays makes them of r's targets until ctx ends.
func newWays(ctx context.Context, r *resolver.Resolver) *ways {
	w := &ways{resolver: r, settings: settings.NewCurrent(settings.New(config.Config{}, nil, nil))}
	w.Clients, w.Parse = new(identity.Latest), r.Parse
	w.Hold = &hold.Hold{Clients: w.Clients, Settings: w.settings}
	w.Routes = route.New(ctx, route.Config{
		Targets: r, Pools: balance.New(balance.Config{}), Settings: w.settings, Clients: w.Clients, Log: slog.New(slog.DiscardHandler),
		Limit: limit.New("the daemon", "", limit.Bounds{}),
	})
	return w
}

// tableOf makes the table of containers, which the listeners follow.
func (w *ways) tableOf(containers ...*dockerd.Container) {
	w.Clients.Store(identity.Build(dockerd.NewSnapshot(containers...), w.Clients.Load(), "", nil, w.Parse))
}

// fixed is the router of l.
func (w *ways) fixed(l *listener) *router { return &router{Config: w.Config, listener: l} }

// withTold runs test in a bubble, with a binding to a target of a source's.
func withTold(t *testing.T, options func(*option.Set), test func(t *testing.T, w *ways, b binding.Binding)) {
	t.Helper()
	routetest.InBubble(t, func(t *testing.T, told *routetest.Bubble) {
		w := newWays(told.Context, told.Resolver)
		test(t, w, told.Binding(t, options))
		told.End()
		w.Routes.Wait()
	})
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
			withTold(t, v.change, func(t *testing.T, a *ways, b binding.Binding) {
				var l listener
				l.service.Store(&forwarding{binding: b})
				f := a.fixed(&l)
				for _, source := range []string{"192.0.2.7:4000", "192.0.2.8:4000", "127.0.0.1:4000", "[2001:db8::1]:4000"} {
					from := netip.MustParseAddrPort(source)
					for _, follow := range []func(){
						func() {},
						func() { a.tableOf(routetest.Labelled("web", nil)) },
						func() { a.Routes.Follow(a.Clients.Load()) },
						func() { a.tableOf() },
						func() { l.service.Store(&forwarding{binding: b}) },
					} {
						follow()
						alone, err := f.route(l.service.Load(), a.Clients.Load(), route.Flow{From: from})
						if err != nil {
							t.Fatal(err)
						}
						for range 2 {
							shared, c := f.RouteNow(proxy.Accepted{Source: netip.AddrPortFrom(netip.AddrFrom16(from.Addr().As16()), from.Port())})
							if (shared != nil) != v.shared {
								t.Fatalf("shared %v; want one: %t", shared, v.shared)
							}
							if v.shared {
								routetest.SameRoute(t, alone, shared, c)
							}
						}
					}
				}
			})
		})
	}
}

func TestAListenerFollowsItsService(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *ways, b binding.Binding) {
		var l listener
		l.service.Store(&forwarding{binding: b, proxyFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
		f := a.fixed(&l)
		trusted := proxy.Accepted{Source: netip.MustParseAddrPort("[::ffff:192.0.2.1]:1")}
		if r, _ := f.RouteNow(trusted); r != nil {
			t.Error("a trusted peer is not asked for its header")
		}
		if r, _ := f.RouteNow(proxy.Accepted{Source: netip.MustParseAddrPort("[fe80::1]:1")}); r != nil {
			t.Error("the name of a link-local client lacks its zone")
		}
		l.service.Store(&forwarding{binding: b})
		r, _ := f.RouteNow(trusted)
		if again, _ := f.RouteNow(trusted); r == nil || again != r {
			t.Fatalf("routes %p, %p; want one for both", r, again)
		}
		b.Options.Wait = time.Hour
		l.service.Store(&forwarding{binding: b})
		if r, _ = f.RouteNow(trusted); r.Options.Wait != time.Hour {
			t.Error("the service was replaced, and the old one's route goes on")
		}
		for i := range 3000 {
			from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			if r, _ := f.RouteNow(proxy.Accepted{Source: netip.AddrPortFrom(from, 1)}); r.Client.Name != from.String() {
				t.Fatalf("client %s; want %s", r.Client.Name, from)
			}
		}
	})
}

// TestListenersOfOnePortShareAClientsLimit: it has the bounds of whoever took the last
// connection, also where no route is made anew.
func TestListenersOfOnePortShareAClientsLimit(t *testing.T) {
	withTold(t, func(o *option.Set) { o.ClientLimit = 1 }, func(t *testing.T, a *ways, b binding.Binding) {
		var one, two listener
		one.service.Store(&forwarding{binding: b})
		b.Options.ClientLimit = 5
		two.service.Store(&forwarding{binding: b})
		first, second := a.fixed(&one), a.fixed(&two)
		from := proxy.Accepted{Source: netip.MustParseAddrPort("192.0.2.1:1")}
		want := limit.New("192.0.2.1 by port 80", "look why it opens so many, or raise client-limit or client-rate of port 80; what labels may ask for, --limit and limits: say", limit.Bounds{})
		for range 2 {
			for f, bound := range map[*router]int{first: 1, second: 5} {
				r, _ := f.RouteNow(from)
				want.Set(limit.Bounds{Open: bound, Queue: b.Options.Queue})
				if !reflect.DeepEqual(r.Limits[0].Limit(), want) {
					t.Errorf("limit %+v; want %+v", r.Limits[0].Limit(), want)
				}
			}
		}
	})
}

// TestTrustedPeerSpeaksForItsClient: of whom the header is believed it is demanded, and
// of others nothing is read.
func TestTrustedPeerSpeaksForItsClient(t *testing.T) {
	socket, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	a := newWays(t.Context(), resolver.New(nil, resolver.Options{}))
	b := binding.Binding{Port: 80, Text: "10.0.0.1:80", Options: option.Default()}
	b.Options.ProxyProtocol = option.ProxyV1
	routed := func(sent string, trusted ...netip.Prefix) (proxy.Route, error) {
		conn, err := net.Dial("tcp", socket.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		accepted, err := socket.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		var l listener
		l.service.Store(&forwarding{binding: b, proxyFrom: trusted})
		return a.fixed(&l).Route(t.Context(), accepted)
	}
	const header = "PROXY TCP4 192.0.2.7 192.0.2.8 4000 80\r\n"
	here := netip.MustParsePrefix("127.0.0.0/8")
	r, err := routed(header+"hello", here)
	if err != nil || r.Read != len(header) || r.Client.Name != "192.0.2.7" || !strings.HasPrefix(string(r.Preface), "PROXY TCP4 192.0.2.7 127.0.0.1 4000 ") {
		t.Errorf("route %+v, %v; want what the header says", r, err)
	}
	if r, err := routed("hello", here); proxy.ReasonOf(err) != proxy.UnknownClient || r.Client.Name != "127.0.0.1" {
		t.Errorf("without a header: %+v, %v", r, err)
	}
	if r, err := routed(header, netip.MustParsePrefix("10.0.0.0/8")); err != nil || r.Read != 0 || r.Client.Name != "127.0.0.1" {
		t.Errorf("of a stranger: %+v, %v; want its header to be its own affair", r, err)
	}
}

// TestWhoseShareItIs: addresses of one client have one share of the daemon's connections.
func TestWhoseShareItIs(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *ways, b binding.Binding) {
		var l listener
		b.Options = option.Default()
		l.service.Store(&forwarding{binding: b})
		shareOf := func(source string) *limit.Share {
			r, err := a.fixed(&l).route(l.service.Load(), nil, route.Flow{From: netip.MustParseAddrPort(source), To: netip.MustParseAddrPort("192.0.2.1:80")})
			if err != nil {
				t.Fatal(err)
			}
			return r.Share
		}
		if shareOf("127.0.0.1:1") != shareOf("127.9.9.9:2") || shareOf("[2001:db8::1]:1") != shareOf("[2001:db8::2]:1") || shareOf("192.0.2.7:1") == shareOf("192.0.2.8:1") {
			t.Error("addresses of one client have shares of their own, or those of several have one")
		}
	})
}
