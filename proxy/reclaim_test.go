package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/limit"
)

// bySource is a Router that tells clients apart by their addresses.
type bySource struct {
	endpoint Endpoint
	shares   map[netip.Addr]*limit.Share
	names    map[netip.Addr]string
	wait     time.Duration
}

func (b *bySource) routeOf(from netip.Addr) Route {
	share := b.shares[from]
	return Route{Client: Client{Name: b.names[from]}, Share: share, Options: Options{Wait: b.wait}}
}

func (b *bySource) Route(_ context.Context, conn *net.TCPConn) (Route, error) {
	route := b.routeOf(addrOf(conn.RemoteAddr()).Addr())
	route.Endpoints = InOrder(b.endpoint)
	return route, nil
}

// alsoNow is one that says so at once, too.
type alsoNow struct{ *bySource }

func (a alsoNow) RouteNow(conn Accepted) (*Route, Chooser) {
	route := a.routeOf(conn.Source.Addr())
	return &route, InOrder(a.endpoint)
}

// fullHouse is a Server of few places and clients that hold some, of whose connections a test
// says how long they are idle.
type fullHouse struct {
	*lab
	limit *limit.Limit

	mu    sync.Mutex
	idle  map[uint16]time.Duration // by the client's port
	looks int                      // at one of them
}

const (
	greedyAddr, modestAddr, newAddr = "127.0.0.2", "127.0.0.3", "127.0.0.4"
	reclaimAfter                    = time.Minute
)

func newFullHouse(t *testing.T, wait time.Duration) *fullHouse {
	c := &fullHouse{limit: limit.New("the daemon", "raise it", limit.Bounds{Open: 20, Queue: 20}), idle: map[uint16]time.Duration{}}
	shares, names := map[netip.Addr]*limit.Share{}, map[netip.Addr]string{}
	for addr, name := range map[string]string{greedyAddr: "greedy", modestAddr: "modest", newAddr: "new"} {
		shares[netip.MustParseAddr(addr)], names[netip.MustParseAddr(addr)] = c.limit.Share(name), name
	}
	by := &bySource{shares: shares, names: names, wait: wait, endpoint: serving(t, func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) })}
	server := &Server{Limit: c.limit}
	server.reclaimer.idle = func(client, _ int) (time.Duration, error) {
		peer, err := unix.Getpeername(client)
		if err != nil {
			return 0, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.looks++
		return c.idle[uint16(peer.(*unix.SockaddrInet4).Port)], nil
	}
	var router Router = by
	if ways.nonBlocking {
		router = alsoNow{by}
	}
	c.lab = newLab(t, server, router)
	return c
}

// from dials as one of them, and says how long that one will be idle.
func (c *fullHouse) from(addr string, idle time.Duration) *net.TCPConn {
	c.t.Helper()
	conn, err := c.try(addr, idle)
	if err != nil {
		c.t.Fatal(err)
	}
	return conn
}

// try is from where a reset may show in the dial already.
func (c *fullHouse) try(addr string, idle time.Duration) (*net.TCPConn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: patience}
	conn, err := dialer.DialContext(c.t.Context(), "tcp", c.addr.String())
	if err != nil {
		return nil, err
	}
	c.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle[uint16(conn.LocalAddr().(*net.TCPAddr).Port)] = idle
	return conn.(*net.TCPConn), nil
}

// served is one from which an answer has come.
func (c *fullHouse) served(addr string, idle time.Duration) *net.TCPConn {
	c.t.Helper()
	conn := c.from(addr, idle)
	if err := echoes(conn); err != nil {
		c.t.Fatalf("%s: %v", addr, err)
	}
	return conn
}

func echoes(conn net.Conn) error {
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// awaitRounds waits until connections were looked at often, after all that was done.
func (c *fullHouse) awaitRounds() {
	c.t.Helper()
	c.mu.Lock()
	before := c.looks
	c.mu.Unlock()
	wait(c.t, "connections are looked at", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.looks >= before+60
	})
}

// notLooking reports whether nobody looks at the shortage any more.
func (c *fullHouse) notLooking() bool {
	return !c.limit.Watched()
}

// TestIdleOnesOfTheGreediestGo: when others need places the greediest client's idle
// connections are reset, the longest idle first and no more than are needed; its busy ones
// stay, and so do all of a client that has no more than its share.
func TestIdleOnesOfTheGreediestGo(t *testing.T) {
	c := newFullHouse(t, time.Hour)
	c.server.ReclaimIdle(reclaimAfter)
	var busy, idle, modest []*net.TCPConn
	for i := range 5 {
		idle = append(idle, c.served(greedyAddr, time.Duration(i+1)*reclaimAfter))
	}
	for range 9 {
		busy = append(busy, c.served(greedyAddr, reclaimAfter-1))
	}
	for range 6 { // a third of all
		modest = append(modest, c.served(modestAddr, 1000*reclaimAfter))
	}
	stay := func(conns ...*net.TCPConn) {
		t.Helper()
		for i, conn := range conns {
			if err := echoes(conn); err != nil {
				t.Errorf("number %d: %v; want it to stay", i, err)
			}
		}
	}
	go1 := func(conns ...*net.TCPConn) {
		t.Helper()
		for _, conn := range conns {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("an idle one reads %v; want a reset", err)
			}
			r := c.record()
			c.wantReason(r, OverLimit)
			for _, what := range []string{"greedy had 1", "of the daemon's 20 connections", "6 were its fair share", "--reclaim-idle 1m0s"} {
				if r.Err == nil || !strings.Contains(r.Err.Error(), what) {
					t.Errorf("the reason is %v; want %q in it", r.Err, what)
				}
			}
		}
	}
	var newcomers []*net.TCPConn
	for i := range 3 { // of which each is one that is needed
		newcomers = append(newcomers, c.served(newAddr, 0))
		go1(idle[4-i])
	}
	stay(append(append(append(idle[:2:2], busy...), modest...), newcomers...)...)

	// Two idle ones are left. Three are wanted.
	for range 3 {
		newcomers = append(newcomers, c.from(newAddr, 0))
	}
	go1(idle[:2]...)
	awaitQueue(t, c.limit, 1)
	c.awaitRounds()
	stay(append(busy, modest...)...)
	if n := c.limit.Open(); n != 20 {
		t.Errorf("%d have a place; want all", n)
	}

	// Nor is one reset for who has a fair share already.
	c.mu.Lock()
	for _, conn := range busy {
		c.idle[uint16(conn.LocalAddr().(*net.TCPAddr).Port)] = time.Hour
	}
	c.mu.Unlock()
	stay(newcomers[5])
	if r := c.record(); ReasonOf(r.Err) != OverLimit {
		t.Errorf("%v; want one to go for the third", r.Err)
	}
	c.from(newAddr, 0)
	awaitQueue(t, c.limit, 1)
	wait(t, "nobody looks any more", c.notLooking)
	if n := len(c.records); n > 0 {
		t.Errorf("%d more have ended; want them to stay", n)
	}
}

// TestIdleOnesStay: unless the operator says otherwise, and once he says so again.
func TestIdleOnesStay(t *testing.T) {
	c := newFullHouse(t, 0)
	var held []*net.TCPConn
	for range 20 {
		held = append(held, c.served(greedyAddr, time.Hour))
	}
	for i, after := range []time.Duration{-1, 0} {
		if after == 0 {
			c.server.ReclaimIdle(reclaimAfter)
			c.server.ReclaimIdle(after)
		}
		conn, err := c.try(newAddr, 0)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the newcomer: %v; want a reset", err)
		}
		c.wantReason(c.record(), OverLimit)
		if c.limit.Watched() {
			t.Errorf("case %d: somebody looks for idle ones", i)
		}
	}
	for _, conn := range held {
		if err := echoes(conn); err != nil {
			t.Error(err)
		}
	}
	if c.looks > 0 {
		t.Errorf("%d were looked at", c.looks)
	}
}

// TestRefusedOnesMakeRoom: who cannot wait is refused, and finds a place the next time.
func TestRefusedOnesMakeRoom(t *testing.T) {
	c := newFullHouse(t, 0)
	c.server.ReclaimIdle(reclaimAfter)
	for range 20 {
		c.served(greedyAddr, time.Hour)
	}
	// A place may become free before it is refused.
	first, err := c.try(newAddr, 0)
	if err == nil {
		err = echoes(first)
	}
	if err != nil {
		ended := map[string]int{c.record().Route.Client.Name: 1}
		ended[c.record().Route.Client.Name]++
		if ended["new"] != 1 || ended["greedy"] != 1 {
			t.Errorf("%v have ended; want one of each", ended)
		}
		c.served(newAddr, 0)
	} else if name := c.record().Route.Client.Name; name != "greedy" {
		t.Errorf("one of %s has ended; want one of the greediest", name)
	}
	wait(t, "nobody looks any more", c.notLooking)
	if n := len(c.records); n > 0 {
		t.Errorf("%d more have ended", n)
	}
}
