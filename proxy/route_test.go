package proxy

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestRouteDialsItsOwnWay(t *testing.T) {
	endpoint := backend(t, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("hello")); conn.Close() })
	meant := netip.MustParseAddrPort("192.0.2.1:80")
	ended := make(chan struct{})
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{
			Endpoints: InOrder(Endpoint{Addr: meant}),
			Dial: func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
				if addr != meant {
					t.Errorf("dials %s, want %s", addr, meant)
				}
				return dialTCP(ctx, endpoint.Addr, &Options{})
			},
			Ended: func() { close(ended) },
		}, nil
	}))
	if got, err := l.read(l.dial()); got != "hello" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if r := l.record(); r.Err != nil || r.Endpoint.Addr != meant {
		t.Errorf("record %+v", r)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("Ended was not called")
	}
}
