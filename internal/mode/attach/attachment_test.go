package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// hidden is an engine whose containers' namespaces cannot be opened.
type hidden struct{ Engine }

func (hidden) OpenNamespace(context.Context, *dockerd.Container) (*netns.Namespace, error) {
	return nil, errors.New("out of sight")
}

// TestAttachmentIsOneGoroutine: there are thousands of containers, each with an attachment that waits
// nearly always, until it is told to end or to leave.
func TestAttachmentIsOneGoroutine(t *testing.T) {
	for name, stop := range map[string]func(*attachment){
		"end":   func(at *attachment) { at.end(true) },
		"leave": func(at *attachment) { at.leave() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				at := newAttachment(newMode(&Config{
					Name: config.Listen, Settings: settings.NewCurrent(settings.New(config.Default(), nil, nil)), Turn: new(handover.Turn),
					Engine: hidden{}, Log: slog.New(slog.DiscardHandler),
				}), &identity.Namespace{Owner: &dockerd.Container{ID: "1", Name: "web"}})
				before, ended := runtime.NumGoroutine(), make(chan struct{})
				go func() { defer close(ended); at.run(ctx) }()
				cancel() // which may come long before
				synctest.Wait()
				if n := runtime.NumGoroutine() - before; n != 1 {
					t.Errorf("it is %d goroutines; want 1", n)
				}
				select {
				case <-ended:
					t.Error("it has ended with the daemon's context")
				default:
				}
				stop(at)
				<-ended
			})
		})
	}
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
		withTold(t, func(t *testing.T, r *routing) {
			web := routetest.Labelled("web", map[string]string{"connect.80": "told://a", "connect.80." + label.option: label.value, "connect.81": "told://b", "connect.82": "nonsense://"})
			limits := option.Limited{label.option: {}} // allowed
			n := identity.Build(dockerd.NewSnapshot(web), nil, "", &binding.Layers{Limits: limits}, r.targets.Parse).Owned(web.ID)
			for _, port := range []uint16{80, 81, 82, 83} {
				w := route.Flow{From: netip.MustParseAddrPort("127.0.0.1:4000"), To: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}
				at := &attachment{namespaceSockets: newSockets(&r.Config)}
				at.desired.Store(n)
				router := &directRouter{at, w.To}
				for range 2 {
					alone, err := r.Routes.For(n, w)
					shared, c := router.RouteNow(proxy.Accepted{Source: w.From})
					if want := err == nil && (label.shared || port != 80); (shared != nil) != want {
						t.Fatalf("%s=%s, port %d: shared %v; want one: %t", label.option, label.value, port, shared, want)
					}
					if shared != nil {
						routetest.SameRoute(t, alone, shared, c)
					}
				}
			}
		})
	}
}

// TestAContainersRouteIsFollowed: what is declared is replaced with the namespace, and
// what all share with the table.
func TestAContainersRouteIsFollowed(t *testing.T) {
	withTold(t, func(t *testing.T, r *routing) {
		web := routetest.Labelled("web", map[string]string{"connect.80": "told://a", "connect.80.target-limit": "4"})
		other := routetest.Labelled("other", map[string]string{"connect.80": "told://a", "connect.80.target-limit": "4"})
		table := r.tableOf(nil, web)
		at := &attachment{namespaceSockets: newSockets(&r.Config), changed: make(chan struct{}, 1)}
		at.desired.Store(table.Owned(web.ID))
		router := &directRouter{at, netip.MustParseAddrPort("127.0.0.1:80")}
		here := proxy.Accepted{Source: netip.MustParseAddrPort("127.0.0.1:4000")}
		first, _ := router.RouteNow(here)
		if again, _ := router.RouteNow(here); again != first {
			t.Fatal("each connection gets a route of its own")
		}

		r.Routes.Follow(identity.Build(dockerd.NewSnapshot(), nil, "", nil, r.targets.Parse)) // forgets all
		next, _ := router.RouteNow(here)
		o := table.Owned(web.ID)
		alone, err := r.Routes.For(o, route.Flow{From: here.Source, To: router.addr})
		if err != nil || next.Limits[0] != alone.Limits[0] || next.Limits[0] == first.Limits[0] {
			t.Errorf("limits %v, %v, %v, %v; want the one that is shared by now", first.Limits, next.Limits, alone.Limits, err)
		}

		changed := *web
		changed.Labels = map[string]string{"connect.80": "told://b"}
		changed.Name = "renamed" // or its declarations would be known
		at.follow(r.tableOf(nil, &changed, other).Owned(web.ID))
		if got, _ := router.RouteNow(here); got == nil || got.Target != "told://b" || got.Client.Name != "renamed" || len(got.Limits) > 0 {
			t.Errorf("after a change: %+v", got)
		}
		changed2 := changed
		changed2.Labels, changed2.Name = nil, "web"
		at.follow(r.tableOf(nil, &changed2, other).Owned(web.ID))
		if got, _ := router.RouteNow(here); got != nil {
			t.Errorf("its label is gone, and it is routed to %s", got.Target)
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
	r := newRouting(t.Context(), resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{}), balance.New(balance.Config{}))
	r.Turn.Borrowed()
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	web := routetest.Labelled("web", map[string]string{fmt.Sprintf("connect.%d", port): "10.0.0.1:80"})
	n := r.tableOf(nil, web).Owned(web.ID)
	at := newAttachment(newMode(&r.Config), n)
	at.end(false)
	accepted := proxy.Accepted{Source: route.PeerOf(conn)}
	e := earlyNamespace{namespaceSockets: newSockets(&r.Config), life: newEarlyLife()}
	if err := raw.Control(func(fd uintptr) {
		accepted.FD = int(fd)
		alone, err := at.Route(t.Context(), conn)
		if err != nil {
			t.Error(err)
			return
		}
		if r, _ := e.RouteNow(accepted); r != nil {
			t.Error("a connection is routed before it is known whose it is")
		}
		e.life.decide(verdict{owner: at})
		e.life.on(ends)
		at.early = &e
		handed := make(chan struct{})
		go func() { // while they route
			defer close(handed)
			at.run(t.Context())
		}()
		defer func() { <-handed }()
		for _, router := range []proxy.NonBlockingRouter{at, &e} {
			shared, c := router.RouteNow(accepted)
			if shared == nil {
				t.Errorf("%T does not know the route at once", router)
				continue
			}
			routetest.SameRoute(t, alone, shared, c)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if r, _ := at.RouteNow(proxy.Accepted{FD: -1, Source: accepted.Source}); r != nil {
		t.Errorf("route %+v of no socket", r)
	}
}
