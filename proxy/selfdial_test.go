package proxy

import (
	"context"
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
		c.at = append(c.at, l.own.Addr.AddrPort())
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
		stop, err := server.Accept(listeners[i], nonBlocking{router})
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
		if n := server.own.Noted(); n > 0 {
			t.Errorf("%d connections are remembered after their end", n)
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
	l.own.Addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
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
	undeclared := way(Route{Client: Client{Name: "app"}, Port: 9002})
	if got, want := undeclared.String(), "app, port 9002, which is not declared"; got != want {
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
	if c.server.own.Noted() > 0 {
		t.Error("it was noted")
	}
	close(stay)
	conn.Close()
}
