//go:build integration

package selfconnect_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/internal/selfconnect"
)

// TestNobodyIsConnectedToHimself: where the kernel has but one local port to choose from, who
// dials that port is refused by every network, and a server can then have it at once.
func TestNobodyIsConnectedToHimself(t *testing.T) {
	if !netlab.Inside(t) {
		return
	}
	const port, server = "40000", "127.0.0.1:40000"
	netlab.LocalPorts(t, port, port)
	var seen string
	dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		seen = address
		return nil
	}}
	for _, network := range []string{"tcp", "udp"} {
		for _, address := range []string{server, "[::1]:" + port} {
			conn, err := selfconnect.DialContext(t.Context(), dialer, network, address)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s %s: %v; want that it is refused", network, address, err)
			}
			if seen != address {
				t.Errorf("%s %s: the dialer's own control function was called for %q", network, address, seen)
			}
		}
	}
	listener, err := net.Listen("tcp", server)
	if err != nil {
		t.Fatalf("the server cannot start: %v", err)
	}
	defer listener.Close()
	netlab.LocalPorts(t, "40001", "40001")
	conn, err := selfconnect.DialContext(t.Context(), &net.Dialer{}, "tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, _ := conn.(*net.TCPConn).SyscallConn()
	_ = raw.Control(func(fd uintptr) {
		if l, err := unix.GetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER); err != nil || l.Onoff != 0 {
			t.Errorf("SO_LINGER is %+v, %v; want a connection as package net makes it", l, err)
		}
	})
}
