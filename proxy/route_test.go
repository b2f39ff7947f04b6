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

func TestClientAddr(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "127.3.2.1": "127.0.0.1", "::1": "127.0.0.1",
		"2001:db8::1:2:3:4": "2001:db8::", "fe80::1%eth0": "fe80::",
	} {
		if got := ClientAddr(netip.MustParseAddr(text)); got.String() != want {
			t.Errorf("%s is %s; want %s", text, got, want)
		}
	}
}
