package balance

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

var errRefused = errors.New("connection refused")

// addr is the address of the nth endpoint.
func addr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 80)
}

// weighted is an endpoint for each weight.
func weighted(weights ...uint16) []Endpoint {
	var all []Endpoint
	for i, w := range weights {
		all = append(all, Endpoint{Addr: addr(i), Name: fmt.Sprint("e", i), Weight: w})
	}
	return all
}

// alike is n endpoints of weight 1.
func alike(n int) []Endpoint {
	weights := make([]uint16, n)
	for i := range weights {
		weights[i] = 1
	}
	return weighted(weights...)
}

// ownFault is what these tests take for no fault of an endpoint's.
func ownFault(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

func newTestPool(o Options, endpoints ...Endpoint) *Pool {
	p := New(Config{OwnFault: ownFault}).Pool("target", o)
	p.Update(new(int), endpoints)
	return p
}

// next is what a new connection of client gets first.
func next(t testing.TB, p *Pool, client string) Use {
	t.Helper()
	c := p.Choose(client)
	u, ok := c.Next()
	if !ok {
		t.Fatal("nobody was chosen")
	}
	return u
}

// useOf is a use of one endpoint, found by trying on until it is offered.
func useOf(t testing.TB, p *Pool, want netip.AddrPort) Use {
	t.Helper()
	c := p.Choose("")
	for {
		u, ok := c.Next()
		if !ok {
			t.Fatalf("%s was not offered", want)
		}
		if u.Addr == want {
			return u
		}
		u.Cancelled()
	}
}

// failing makes endpoint want fail n times.
func failing(t testing.TB, p *Pool, want netip.AddrPort, n int) {
	t.Helper()
	for range n {
		useOf(t, p, want).Failed(errRefused)
	}
}

// order is all that a connection is offered when every dial is given up.
func order(p *Pool, client string) []netip.AddrPort {
	var all []netip.AddrPort
	c := p.Choose(client)
	for u, ok := c.Next(); ok; u, ok = c.Next() {
		all = append(all, u.Addr)
		u.Cancelled()
	}
	return all
}

// serve is a connection that goes well.
func serve(u Use) {
	u.Opened()
	u.Closed(Answered)
}

// isEjected says whether the host holds addr for ejected.
func isEjected(p *Pool, addr netip.AddrPort) bool { return statusOf(p, addr).Ejected }

func statusOf(p *Pool, addr netip.AddrPort) EndpointStatus {
	for _, s := range p.registry.Status() {
		if s.Addr == addr {
			return s
		}
	}
	return EndpointStatus{}
}

// sleep is only called in a bubble of synctest.
func sleep(d time.Duration) { time.Sleep(d) }
