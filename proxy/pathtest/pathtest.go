// Package pathtest is what every way through the proxy has to pass: how its two
// ends see the other's bytes, ends and resets must not differ from a direct
// connection.
//
// Each script is played twice, over a direct connection and over the path under
// test, with real sockets. The bytes, ends and resets that each side sees are
// recorded in order, and the two records must be equal. A script waits for what it caused, never for time, so that
// there is one right answer. Differences lists what no proxy can hide, each
// with its reason.
package pathtest

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Path is a way from a client to an endpoint.
type Path struct {
	// Listen opens the endpoint's socket.
	Listen func(t testing.TB) *net.TCPListener
	// Through returns where a client dials that wants to reach endpoint; nil means
	// that it dials the endpoint itself.
	Through func(t testing.TB, endpoint netip.AddrPort) netip.AddrPort
	// Dial opens a connection as the client does.
	Dial func(addr netip.AddrPort) (*net.TCPConn, error)
}

// Loopback is the direct path within this host.
func Loopback() Path {
	return Path{
		Listen: func(t testing.TB) *net.TCPListener {
			t.Helper()
			listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			return listener
		},
		Dial: func(addr netip.AddrPort) (*net.TCPConn, error) {
			return net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
		},
	}
}

func (p Path) through(t testing.TB, endpoint netip.AddrPort) netip.AddrPort {
	if p.Through == nil {
		return endpoint
	}
	return p.Through(t, endpoint)
}

// Run plays every script over direct and over path and compares.
func Run(t *testing.T, direct, path Path) {
	t.Run("nobody listens", func(t *testing.T) {
		nobody(t, direct)
		nobody(t, path)
	})
	for _, s := range Scripts() {
		t.Run(s.Name, func(t *testing.T) {
			want, got := s.play(t, direct), s.play(t, path)
			for i, side := range []string{"the client", "the endpoint"} {
				if !slices.Equal(want[i], got[i]) {
					t.Errorf("%s sees, on a direct connection:\n\t%s\nand on this path:\n\t%s",
						side, strings.Join(want[i], "\n\t"), strings.Join(got[i], "\n\t"))
				}
			}
		})
	}
}

// Script is what both sides do.
type Script struct {
	Name string
	do   func(client, endpoint *end)
}

// play plays the script and returns what the client and the endpoint saw.
func (s Script) play(t *testing.T, path Path) [2][]string {
	t.Helper()
	listener := path.Listen(t)
	defer listener.Close()
	dialled, err := path.Dial(path.through(t, listener.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	client, endpoint := newEnd(t, "client", dialled), newEnd(t, "endpoint", accepted)
	client.peer, endpoint.peer = endpoint, client
	s.do(client, endpoint)
	for _, e := range []*end{client, endpoint} { // whoever is still there is let go
		_ = e.conn.SetLinger(0)
		_ = e.conn.Close()
	}
	client.sending.Wait()
	endpoint.sending.Wait()
	return [2][]string{client.seen, endpoint.seen}
}
