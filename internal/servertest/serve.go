package servertest

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// Listen is a listener at a port of 127.0.0.1.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// Serve calls serve for each connection of listener, and closes it then, until the test ends. It
// returns where that is.
func Serve(t testing.TB, listener net.Listener, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	var serving sync.WaitGroup
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// Named is Serve that answers each line with name.
func Named(t testing.TB, listener net.Listener, name string) netip.AddrPort {
	t.Helper()
	return Serve(t, listener, func(conn net.Conn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			fmt.Fprintln(conn, name)
		}
	})
}
