//go:build integration

package proxy

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/proxy/pathtest"
)

// TestConformanceOverCables is TestConformance with hosts of their own, cables
// between them and a round trip that takes time: on loopback what is sent has
// arrived when the call returns, and much cannot go wrong.
func TestConformanceOverCables(t *testing.T) {
	client, middle, endpoint := netlab.New(t), netlab.New(t), netlab.New(t)
	netlab.Connect(t, client, netip.MustParsePrefix("10.1.0.1/24"), middle, netip.MustParsePrefix("10.1.0.2/24"))
	netlab.Connect(t, middle, netip.MustParsePrefix("10.2.0.1/24"), endpoint, netip.MustParsePrefix("10.2.0.2/24"))
	netlab.Connect(t, client, netip.MustParsePrefix("10.3.0.1/24"), endpoint, netip.MustParsePrefix("10.3.0.2/24"))
	queued(t, client, "eth0", "eth1")
	queued(t, middle, "eth0", "eth1")
	queued(t, endpoint, "eth0", "eth1")

	listenAt := func(lab *netlab.Lab, t testing.TB, addr string) *net.TCPListener {
		t.Helper()
		var listener net.Listener
		lab.Do(t, func() (err error) {
			config := net.ListenConfig{}
			config.SetMultipathTCP(false)
			listener, err = config.Listen(context.Background(), "tcp", addr)
			return err
		})
		return listener.(*net.TCPListener)
	}
	dial := func(addr netip.AddrPort) (*net.TCPConn, error) { return client.TryDial(addr.String()) }
	pathtest.Run(t, pathtest.Path{
		Listen: func(t testing.TB) *net.TCPListener { return listenAt(endpoint, t, "10.3.0.2:0") },
		Dial:   dial,
	}, pathtest.Path{
		Listen: func(t testing.TB) *net.TCPListener { return listenAt(endpoint, t, "10.2.0.2:0") },
		Through: func(t testing.TB, addr netip.AddrPort) netip.AddrPort {
			server := &Server{Dial: func(_ context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
				return middle.TryDial(addr.String())
			}}
			return newLabAt(t.(*testing.T), server, to(Endpoint{Addr: addr}), listenAt(middle, t, "10.1.0.2:0")).addr
		},
		Dial: dial,
	})
}

// queued has packets queue on their way out, as on a cable of 400 Mbit/s.
func queued(t *testing.T, lab *netlab.Lab, interfaces ...string) {
	t.Helper()
	for _, name := range interfaces {
		lab.Run(t, "", "tc", "qdisc", "add", "dev", name, "root", "tbf", "rate", "400mbit", "burst", "64kb", "latency", "100ms")
	}
}
