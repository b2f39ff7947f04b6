package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// circle is a Server with several listeners, each of which may lead to another.
type circle struct {
	*lab
	at  []netip.AddrPort
	end func() []Record // ends accepting, waits for all connections, and returns what was said of them
}

// newCircle serves as many listeners as there are targets, which leads gives once it is
// known where they listen.
func newCircle(t *testing.T, n int, change func(*Listener), leads func(at []netip.AddrPort) [][]netip.AddrPort) *circle {
	t.Helper()
	return newCircleBy(t, Options{}, n, change, leads)
}

// newCircleBy is newCircle with options of all routes.
func newCircleBy(t *testing.T, options Options, n int, change func(*Listener), leads func(at []netip.AddrPort) [][]netip.AddrPort) *circle {
	t.Helper()
	server := &Server{Loops: ways.loops}
	var mu sync.Mutex
	var records []Record
	server.Done = func(r Record) {
		mu.Lock()
		defer mu.Unlock()
		records = append(records, r)
	}
	server.init()
	c := &circle{lab: &lab{t: t, server: server}}
	var listeners []*Listener
	for range n {
		l := NewListener(listen(t))
		c.at = append(c.at, l.addr.AddrPort())
		change(l)
		listeners = append(listeners, l)
	}
	var stops []func()
	for i, to := range leads(c.at) {
		var endpoints []Endpoint
		for _, addr := range to {
			endpoints = append(endpoints, Endpoint{Addr: addr})
		}
		router := RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
			return Route{Client: Client{Name: "app"}, Port: c.at[i].Port(), Target: "target", Endpoints: InOrder(endpoints...), Options: options}, nil
		})
		stop, err := server.Accept(listeners[i], promptly{router})
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, stop)
	}
	c.end = sync.OnceValue(func() []Record {
		for _, stop := range stops {
			stop()
		}
		server.Drain(t.Context())
		for i := range server.flows.shards {
			if n := len(server.flows.shards[i].hops); n > 0 {
				t.Errorf("%d connections are remembered after their end", n)
			}
		}
		return records
	})
	t.Cleanup(func() { c.end() })
	return c
}

func unchanged(*Listener) {}

// renamed has nobody recognise a listener by its address, as where a rule of the kernel
// leads connections from another address to it.
func renamed(l *Listener) {
	l.addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
}

func leadsTo(addrs ...netip.AddrPort) []netip.AddrPort { return addrs }

// A listener whose target is itself, or leads back to it by way of another listener.
func TestLoop(t *testing.T) {
	for name, leads := range map[string]func(at []netip.AddrPort) [][]netip.AddrPort{
		"itself": func(at []netip.AddrPort) [][]netip.AddrPort {
			return [][]netip.AddrPort{leadsTo(at[0]), leadsTo(at[1]), leadsTo(at[2])}
		},
		"each other": func(at []netip.AddrPort) [][]netip.AddrPort {
			return [][]netip.AddrPort{leadsTo(at[1]), leadsTo(at[0]), leadsTo(at[0])}
		},
		"three of them": func(at []netip.AddrPort) [][]netip.AddrPort {
			return [][]netip.AddrPort{leadsTo(at[1]), leadsTo(at[2]), leadsTo(at[0])}
		},
		"by another one": func(at []netip.AddrPort) [][]netip.AddrPort {
			return [][]netip.AddrPort{leadsTo(at[1]), leadsTo(at[1]), leadsTo(at[0])}
		},
	} {
		for seen, change := range map[string]func(*Listener){"by the address": unchanged, "by the connection": renamed} {
			t.Run(name+", "+seen, func(t *testing.T) {
				c := newCircle(t, 3, change, leads)
				c.addr = c.at[0]
				c.dialRefused()
				wantLoop(t, c.end())
			})
		}
	}
}

// To wait makes no other endpoint of a listener of ours: what leads back is reset at once,
// however long connections are held while nobody answers.
func TestLoopIsNotHeld(t *testing.T) {
	c := newCircleBy(t, Options{Wait: 10 * patience}, 1, unchanged, func(at []netip.AddrPort) [][]netip.AddrPort {
		return [][]netip.AddrPort{leadsTo(at[0])}
	})
	c.addr = c.at[0]
	c.dialRefused()
	wantLoop(t, c.end())
}

// wantLoop demands that all that one connection became, and it is not much, was reset
// because it was a loop.
func wantLoop(t *testing.T, all []Record) {
	t.Helper()
	const most = 12
	loops := 0
	for _, r := range all {
		switch ReasonOf(r.Err) {
		case Loop:
			loops++
			if text := r.Err.Error(); !strings.Contains(text, "app, port") || !strings.Contains(text, "target target") {
				t.Errorf("the error %q does not name the way", text)
			}
		default:
			t.Errorf("a connection of the loop ended by %v", r.Err)
		}
	}
	if loops == 0 || len(all) > most {
		t.Errorf("one connection became %d, of which %d say that it was a loop", len(all), loops)
	}
}

// What nobody declares has no target to name.
func TestStepOfAnUndeclaredPort(t *testing.T) {
	h := &hop{route: &Route{Client: Client{Name: "app"}, Port: 9002}}
	if got, want := h.step(), "app, port 9002, which is not declared"; got != want {
		t.Errorf("step = %q; want %q", got, want)
	}
}

// An endpoint that leads back is passed over for one that does not.
func TestLoopBesideAnEndpoint(t *testing.T) {
	good := backend(t, func(conn *net.TCPConn) { defer conn.Close(); _, _ = conn.Write([]byte("good")) }).Addr
	c := newCircle(t, 1, unchanged, func(at []netip.AddrPort) [][]netip.AddrPort {
		return [][]netip.AddrPort{leadsTo(at[0], good)}
	})
	c.addr = c.at[0]
	if got, err := c.read(c.dial()); got != "good" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if all := c.end(); len(all) != 1 || all[0].Err != nil || all[0].Endpoint.Addr != good {
		t.Errorf("%+v", all)
	}
}

// One listener may lead to another that leads elsewhere.
func TestListenersInARow(t *testing.T) {
	good := backend(t, func(conn *net.TCPConn) { defer conn.Close(); _, _ = conn.Write([]byte("good")) }).Addr
	c := newCircle(t, 3, unchanged, func(at []netip.AddrPort) [][]netip.AddrPort {
		return [][]netip.AddrPort{leadsTo(at[1]), leadsTo(at[2]), leadsTo(good)}
	})
	c.addr = c.at[0]
	if got, err := c.read(c.dial()); got != "good" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	for _, r := range c.end() {
		if r.Err != nil {
			t.Errorf("%+v", r)
		}
	}
}

// A wildcard listener is reached by every address of ours, and no other.
func TestListenerAccepts(t *testing.T) {
	all := listenerAt(&net.TCPAddr{Port: 7100})
	one := listenerAt(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7100})
	six := listenerAt(&net.TCPAddr{IP: net.IPv6loopback, Port: 7100})
	for _, test := range []struct {
		listener *Listener
		addr     string
		want     bool
	}{
		{all, "127.0.0.1:7100", true},
		{all, "127.8.8.8:7100", true},
		{all, "[::1]:7100", true},
		{all, "[::ffff:127.0.0.1]:7100", true},
		{all, "0.0.0.0:7100", true},
		{all, "127.0.0.1:7101", false},
		{all, "192.0.2.1:7100", false},
		{one, "127.0.0.1:7100", true},
		{one, "[::ffff:127.0.0.1]:7100", true},
		{one, "127.0.0.2:7100", false},
		{one, "[::1]:7100", false},
		{six, "[::1]:7100", true},
		{six, "127.0.0.1:7100", false},
		{listenerAt(one.addr).Elsewhere(), "127.0.0.1:7100", false},
	} {
		if got := test.listener.accepts(netip.MustParseAddrPort(test.addr), new(Server).isLocal); got != test.want {
			t.Errorf("%s by %s: %v", test.addr, test.listener.addr, got)
		}
	}
}

// The connections that nothing leads back are not noted, although what they dial is.
func TestConnectionThatDoesNotComeBack(t *testing.T) {
	stay := make(chan struct{})
	good := backend(t, func(conn *net.TCPConn) {
		defer conn.Close()
		_, _ = conn.Write([]byte("good"))
		<-stay
	}).Addr
	c := newCircle(t, 1, unchanged, func([]netip.AddrPort) [][]netip.AddrPort { return [][]netip.AddrPort{leadsTo(good)} })
	c.addr = c.at[0]
	conn := c.dial()
	if _, err := conn.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	f := &c.server.flows
	for i := range f.shards {
		if len(f.shards[i].hops) > 0 {
			t.Error("it was noted")
		}
	}
	if !f.dialled.has(keyOf(good)) || f.led.has(keyOf(good)) || f.dialled.has(keyOf(c.at[0])) {
		t.Error("its endpoint is not what was dialled, or has led back")
	}
	close(stay)
	conn.Close()
}

// From where an endpoint is dialled is looked at until it is known, and every now and then.
// What is dialled in one namespace says nothing of another.
func TestSourcesAreLearned(t *testing.T) {
	server := new(Server)
	server.here.Store(1)
	route := new(Route)
	endpoint, source := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("192.0.2.7:40000")
	for range 2 { // the first dial fails
		if d := server.departs(nil, nil, route, endpoint); !d.learn || d.note {
			t.Errorf("before it is known: %+v", d)
		}
	}
	d := server.departs(nil, nil, &Route{Options: Options{Transparent: true}}, endpoint)
	server.departed(&d, nil, nil, &Route{Options: Options{Transparent: true}}, netip.MustParseAddrPort("192.0.2.9:40000"))
	inside := new(Listener).Elsewhere()
	there := &Route{Dial: func(context.Context, netip.AddrPort) (*net.TCPConn, error) { return nil, nil }}
	d = server.departs(inside, nil, there, endpoint)
	server.departed(&d, inside, nil, there, netip.MustParseAddrPort("192.0.2.8:40000"))
	if f := &server.flows; f.dialsFrom(netip.MustParseAddr("192.0.2.8")) || f.dialsFrom(netip.MustParseAddr("192.0.2.9")) {
		t.Error("the address of a client, or of another namespace, is taken for ours")
	}
	d = server.departs(nil, nil, route, endpoint)
	server.departed(&d, nil, nil, route, source)
	if !server.flows.dialsFrom(source.Addr()) {
		t.Error("where it was dialled from was not learned")
	}
	learned := 0
	for range 100 * lookAgain {
		if d := server.departs(nil, nil, route, endpoint); d.learn {
			learned++
		}
	}
	if learned < 50 || learned > 200 {
		t.Errorf("of %d dials more %d looked from where; want about 100", 100*lookAgain, learned)
	}
}

// What one endpoint has led to is not held against the next.
func TestLoopBeforeAnotherEndpoint(t *testing.T) {
	server := new(Server)
	server.here.Store(1)
	h, route := new(hop), new(Route)
	h.looped.Store(&cause{Fail(Loop, errors.New("it came back"))})
	d := server.departs(nil, h, route, netip.MustParseAddrPort("192.0.2.1:80"))
	h = server.departed(&d, nil, h, route, netip.MustParseAddrPort("192.0.2.7:40000"))
	gone := Fail(EndpointGone, errors.New("reset"))
	if err := server.reason(h, gone, nil); ReasonOf(err) != EndpointGone {
		t.Errorf("it ended by %v; want that it was reset", err)
	}
	h.left()
}

// Where connections from ourselves were dialled is asked of each, until many in a row were
// dialled at the listener; then of some, until one was not.
func TestWhereConnectionsWereDialled(t *testing.T) {
	server := new(Server)
	at, led := netip.MustParseAddrPort("127.0.0.1:6379"), netip.MustParseAddrPort("127.0.0.2:6379")
	listener, asked := listenerAt(net.TCPAddrFromAddrPort(at)), 0
	arrive := func(dialled netip.AddrPort) *hop {
		return server.arrived(listener, netip.MustParseAddrPort("127.0.0.1:40000"), func() (netip.AddrPort, error) {
			asked++
			return dialled, nil
		})
	}
	const more = 100 * askAgain
	for range surelyItself + more {
		arrive(at)
	}
	if asked < surelyItself+50 || asked > surelyItself+200 {
		t.Errorf("of %d connections %d were asked; want %d and about 100", surelyItself+more, asked, surelyItself)
	}
	server.flows.dialled.add(keyOf(led))
	missed := 0
	for arrive(led) == nil {
		if missed++; missed > more {
			t.Fatal("none of those that a rule has led here was seen to be ours")
		}
	}
	for range surelyItself {
		if arrive(led) == nil {
			t.Error("once one has been led here, another one was not seen to be ours")
		}
	}
	for range more { // surelyItself again
		arrive(at)
	}
	server.flows.dialled.add(keyOf(at))
	for range more {
		if arrive(at) == nil {
			t.Fatal("the listener's own address was dialled, and what arrived there was not seen to be ours")
		}
	}
}
