//go:build integration

package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// TestDialsAsItsClient: an endpoint sees an address that is not this host's, and the
// mark is on the connection.
func TestDialsAsItsClient(t *testing.T) {
	lab := netlab.New(t)
	lab.Run(t, "", "ip", "route", "add", "local", "10.9.0.0/24", "dev", "lo") // what answers there comes back
	client := netip.MustParseAddr("10.9.0.5")
	endpoint, err := lab.NS().ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer endpoint.Close()
	near, err := lab.NS().ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	mark := make(chan int, 1)
	records := make(chan Record, 1)
	server := &Server{
		Done: func(r Record) { records <- r },
		Keeper: keeperFunc(func(c Connection) {
			client, upstream, ok := c.Duplicate()
			if !ok {
				t.Error("it has no ends")
			}
			m, err := unix.GetsockoptInt(upstream, unix.SOL_SOCKET, unix.SO_MARK)
			if err != nil {
				t.Error(err)
			}
			socket.Close(client)
			socket.Close(upstream)
			mark <- m
		}),
	}
	inside := func(ctx context.Context, addr netip.AddrPort, o *Options) (conn *net.TCPConn, err error) {
		err = lab.NS().Do(func() error {
			conn, err = dialTCP(ctx, addr, o)
			return err
		})
		return conn, err
	}
	stop, err := server.Accept(NewListener(near), RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		o := Options{Source: client, Transparent: true, Mark: 0x4d}
		return Route{
			Endpoints: InOrder(Endpoint{Addr: endpoint.Addr().(*net.TCPAddr).AddrPort()}),
			Options:   o,
			Dial: func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
				return inside(ctx, addr, &o)
			},
		}, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	conn := lab.Dial(t, near.Addr().String())
	accepted, err := endpoint.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	if from := accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from != client {
		t.Errorf("the endpoint sees %s; want %s", from, client)
	}
	if m := <-mark; m != 0x4d {
		t.Errorf("the mark is %#x; want 0x4d", m)
	}
	if _, err := accepted.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	accepted.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "hello" {
		t.Errorf("the client reads %q, %v; want what comes back to it", b, err)
	}
	conn.Close()
	<-records
	stop()
	server.Drain(t.Context())
}
