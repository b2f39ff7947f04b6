package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/proxy/limit"
)

func TestConnectionsPastALimit(t *testing.T) {
	places := limit.New("client", "raise it", limit.Bounds{Open: 1, Queue: 1})
	leave := make(chan struct{})
	e := greeterAll(t, leave)
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Endpoints: InOrder(e), Limits: []*limit.Share{places.Alone()}, Options: Options{Wait: patience}}, nil
	}))
	first := l.dial()
	if _, err := io.ReadFull(first, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	queued := l.dial()
	awaitQueue(t, places, 1)
	l.dialRefused()
	l.wantReason(l.record(), OverLimit)
	close(leave)
	if b, err := l.read(first); err != nil || b != "" {
		t.Errorf("the first reads %q, %v; want its end", b, err)
	}
	if b, err := l.read(queued); err != nil || b != "hello" {
		t.Errorf("the one in the queue reads %q, %v; want to be served when there is a place", b, err)
	}
	l.record()
	l.record()
	if places.Open() != 0 {
		t.Errorf("%d places are taken at the end", places.Open())
	}
}

func TestMoreThanMayBeAccepted(t *testing.T) {
	leave := make(chan struct{})
	l := newLab(t, &Server{Accepted: 1}, to(greeterAll(t, leave)))
	first := l.dial()
	if _, err := io.ReadFull(first, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	l.dialRefused()
	l.wantReason(l.record(), OverLimit)
	close(leave)
	first.Close()
	l.record()
	if b, err := l.read(l.dial()); err != nil || b != "hello" {
		t.Errorf("afterwards one reads %q, %v; want hello", b, err)
	}
}

// greeterAll greets every connection and ends it when leave is closed.
func greeterAll(t *testing.T, leave <-chan struct{}) Endpoint {
	t.Helper()
	return serving(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("hello"))
		<-leave
	})
}

// serving accepts connections until the test ends and hands each to serve.
func serving(t *testing.T, serve func(*net.TCPConn)) Endpoint {
	t.Helper()
	listener := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { listener.Close(); wg.Wait() })
	return Endpoint{Addr: addrOf(listener.Addr()), Name: "greeter"}
}

func awaitQueue(t *testing.T, l *limit.Limit, n int) {
	t.Helper()
	wait(t, "somebody waits in the queue", func() bool { return l.Status().Waiting == n })
}

// TestGreedyClientThroughTheServer: what one client holds, and what of its waits, leaves
// room for another's.
func TestGreedyClientThroughTheServer(t *testing.T) {
	places := limit.New("the daemon", "raise it", limit.Bounds{Open: 16, Queue: 4, Reserve: 2})
	greedy, honest := places.Share("greedy"), places.Share("honest")
	leave := make(chan struct{})
	e := greeterAll(t, leave)
	from := net.IPv4(127, 0, 0, 2)
	l := newLab(t, &Server{Limit: places, Unknown: limit.New("unknown", "", limit.Bounds{Open: 64, Reserve: 8}), Accepted: 24},
		RouterFunc(func(_ context.Context, conn *net.TCPConn) (Route, error) {
			share, name := honest, "honest"
			if sourceIP(conn).Equal(from) {
				share, name = greedy, "greedy"
			}
			return Route{Client: Client{Name: name}, Share: share, Endpoints: InOrder(e), Options: Options{Wait: time.Hour}}, nil
		}))
	var held []net.Conn
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	for i := range 18 { // 14 of them are served, 4 wait
		conn, err := dialer.DialContext(t.Context(), "tcp", l.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
		if i >= 14 {
			awaitQueue(t, places, i-13)
		} else if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil { // none waits beside those not known yet
			t.Fatal(err)
		}
	}
	served := l.dial()
	if _, err := io.ReadFull(served, make([]byte, 5)); err != nil {
		t.Fatalf("the honest one is not served: %v", err)
	}
	close(leave)
	var ending sync.WaitGroup // any of them may be one that waits until others have left
	for _, conn := range held {
		ending.Go(func() {
			if _, err := io.ReadAll(conn); err != nil {
				t.Error(err)
			}
			conn.Close()
		})
	}
	ending.Wait()
	if b, err := l.read(served); err != nil || b != "" {
		t.Errorf("the honest one reads %q, %v; want its end", b, err)
	}
	for range 19 {
		if r := l.record(); r.Err != nil {
			t.Errorf("%s: %v", r.Route.Client.Name, r.Err)
		}
	}
	wait(t, "all places are given back", func() bool { return places.Open() == 0 })
}

func sourceIP(conn *net.TCPConn) net.IP { return conn.RemoteAddr().(*net.TCPAddr).IP }

// TestAHedgeTakesAPlace: the second dial takes a descriptor more, so there is none when its
// client has no place left, and the place is given back with it.
func TestAHedgeTakesAPlace(t *testing.T) {
	for places, want := range map[int]int32{1: 1, 2: 2} {
		all := limit.New("the daemon", "", limit.Bounds{Open: places, Queue: 1})
		share := all.Share("web")
		var dialled atomic.Int32
		endpoint := serving(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) }) // whichever of the two it gets first
		l := newLab(t, &Server{Limit: all, Dial: func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
			dialled.Add(1)
			select { // the first one to be dialled takes its time
			case <-time.After(300 * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return dialTCP(ctx, addr, &Options{})
		}}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
			return Route{Share: share, Endpoints: InOrder(endpoint, endpoint), Options: Options{Hedge: 10 * time.Millisecond}}, nil
		}))
		if b, err := l.read(l.dial()); err != nil || b != "hello" {
			t.Fatalf("it reads %q, %v", b, err)
		}
		l.record()
		if dialled.Load() != want {
			t.Errorf("with %d places %d were dialled; want %d", places, dialled.Load(), want)
		}
		wait(t, "all places are given back", func() bool { return all.Open() == 0 })
	}
}

// TestUnidentifiedByOrigin: connections whose client is not known yet take each other's places where
// they have one origin: on loopback all that come to one listener, elsewhere all of one address.
func TestUnidentifiedByOrigin(t *testing.T) {
	source := func(text string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(text), 40000) }
	listener := func(address string) *Listener {
		l := &Listener{fd: -1}
		l.own.ListensAt(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return l
	}
	inside, beside, outside := listener("127.0.0.1:61000"), listener("127.0.0.1:61001"), listener("192.0.2.1:61000")
	type from struct {
		listener *Listener
		source   netip.AddrPort
	}
	for name, test := range map[string]struct {
		first, second from
		one           bool
	}{
		"a listener on loopback":         {from{inside, source("127.0.0.1")}, from{inside, source("127.0.0.2")}, true},
		"two listeners on loopback":      {from{inside, source("127.0.0.1")}, from{beside, source("127.0.0.1")}, false},
		"an address":                     {from{outside, source("192.0.2.7")}, from{outside, source("192.0.2.7")}, true},
		"two addresses":                  {from{outside, source("192.0.2.7")}, from{outside, source("192.0.2.8")}, false},
		"loopback at another's listener": {from{outside, source("127.0.0.1")}, from{outside, source("127.0.0.2")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{
				Limit:   limit.New("the daemon", "raise it", limit.Bounds{Open: 32, Queue: 10, Reserve: 4}),
				Unknown: limit.New("unknown", "", limit.Bounds{Open: 8, Reserve: 4}),
			}
			for n := 0; ; n++ {
				leave, err := s.enterUnidentified(test.first.listener, test.first.source)
				if err != nil {
					if ReasonOf(err) != OverLimit || n == 0 {
						t.Fatalf("after %d: %v; want the reason %s", n, err, OverLimit)
					}
					break
				}
				defer leave()
			}
			leave, err := s.enterUnidentified(test.second.listener, test.second.source)
			if (err != nil) != test.one {
				t.Errorf("another: %v; want no place: %t", err, test.one)
			}
			if err == nil {
				leave()
			}
		})
	}
}
