// Package selfconnect dials so that no connection is one to itself.
//
// The kernel chooses a local port of the ephemeral range for each dial. If that is the very
// port that is dialled, at an address of this host where nobody listens, the SYN comes back
// to the socket that has sent it, and TCP calls that a connection (RFC 9293, section 3.5,
// simultaneous open): a program that writes to it reads its own bytes, and the server that is
// down cannot start, since its port is taken, for another minute (TIME_WAIT) even after such a
// connection is closed. Such a port has no listener, or the kernel would not have chosen it,
// so the dial is one that was refused.
//
// Package net looks for it too, and dials again, twice; the third connection it returns as it
// is, those before it closes with a FIN, and at UDP it does not look.
package selfconnect

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Is reports whether these are the addresses of one socket that is connected to itself. The
// unspecified address is, to connect(2), the one that the socket has itself, or else loopback's.
func Is(local, remote netip.AddrPort) bool {
	to := remote.Addr().Unmap()
	return local.Port() == remote.Port() && (to.IsUnspecified() || local.Addr().Unmap() == to)
}

// DialContext dials as d does. A connection to itself is given up, by a reset, and is an
// error, ECONNREFUSED, as package net words it.
func DialContext(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	isTCP := strings.HasPrefix(network, "tcp")
	dialer := *d
	if isTCP {
		dialer.Control, dialer.ControlContext = nil, lingering(d)
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if isSelf(conn) {
		_ = conn.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Addr: conn.RemoteAddr(), Err: os.NewSyscallError("connect", unix.ECONNREFUSED)}
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(-1) // fails only on a socket that is gone, which shows soon enough
	}
	return conn, nil
}

// lingering is d's control function, after which closing the socket resets it: package net
// closes the connections to itself that it finds, and nothing of them is to stay.
func lingering(d *net.Dialer) func(context.Context, string, string, syscall.RawConn) error {
	control := d.ControlContext
	if control == nil && d.Control != nil {
		control = func(_ context.Context, network, address string, c syscall.RawConn) error {
			return d.Control(network, address, c)
		}
	}
	return func(ctx context.Context, network, address string, c syscall.RawConn) error {
		if control != nil {
			if err := control(ctx, network, address, c); err != nil {
				return err
			}
		}
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
}

func isSelf(conn net.Conn) bool {
	local, lok := addrPort(conn.LocalAddr())
	remote, rok := addrPort(conn.RemoteAddr())
	return lok && rok && Is(local, remote)
}

// addrPort is an address of TCP or UDP; others cannot be one's own.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort(), a != nil
	case *net.UDPAddr:
		return a.AddrPort(), a != nil
	}
	return netip.AddrPort{}, false
}
