//go:build integration

package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

// TestNobodyGetsHisOwnBytesBack: an endpoint that is down, at a port of the ephemeral range of
// this host, may be dialled from that very port. That is no connection, the client is refused,
// and the endpoint can then start.
func TestNobodyGetsHisOwnBytesBack(t *testing.T) {
	if !netlab.IsInside(t) && ways.again || !netlab.Inside(t) { // inside, it is tried in every way
		return
	}
	for _, addr := range []string{"127.0.0.1:40000", "0.0.0.0:40000"} { // connect(2) takes the second for the first
		t.Run(addr, func(t *testing.T) { nobodyAt(t, Endpoint{Addr: netip.MustParseAddrPort(addr)}) })
	}
}

// nobodyAt dials an endpoint that is down from its own port.
func nobodyAt(t *testing.T, down Endpoint) {
	t.Helper()
	netlab.LocalPorts(t, "32768", "60999")
	spoken := make(chan struct{})
	router := to(down)
	if !ways.nonBlocking { // or it may be refused before it has dialled
		router = RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
			<-spoken
			return Route{Endpoints: InOrder(down)}, nil
		})
	}
	l := newLab(t, &Server{}, router)
	netlab.LocalPorts(t, "40000", "40000")
	conn := l.dialSpeaking(func(c *net.TCPConn) {
		mustWrite(t, c, "hello")
		close(spoken)
	})
	if got, err := l.read(conn); got != "" || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client reads %q, %v; want that it is refused", got, err)
	}
	r := l.record()
	l.wantReason(r, DialFailed)
	if !errors.Is(r.Err, unix.ECONNREFUSED) {
		t.Errorf("%v; want that the endpoint refused it", r.Err)
	}
	endpoint, err := net.Listen("tcp", down.Addr.String())
	if err != nil {
		t.Fatalf("the endpoint cannot start: %v", err)
	}
	endpoint.Close()
}
