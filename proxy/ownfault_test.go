package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOwnFault(t *testing.T) {
	dialled := func(call string, errno unix.Errno) error {
		return dialError(netip.MustParseAddrPort("10.0.0.1:80"), call, errno)
	}
	for _, errno := range []unix.Errno{
		unix.EINVAL, unix.EACCES, unix.EPERM, unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EMFILE, unix.ENFILE,
		unix.ENOBUFS, unix.ENOMEM, unix.EAFNOSUPPORT,
	} {
		if !OwnFault(dialled("connect", errno)) {
			t.Errorf("%v counts against the endpoint", errno)
		}
	}
	for _, err := range []error{
		dialled("connect", unix.ECONNREFUSED), dialled("connect", unix.ETIMEDOUT), dialled("connect", unix.ECONNRESET),
		dialled("connect", unix.EHOSTUNREACH), dialled("connect", unix.ENETUNREACH),
		context.DeadlineExceeded, os.ErrDeadlineExceeded, errors.New("it did not answer"), nil,
		Fail(DialFailed, unix.ECONNREFUSED),
	} {
		if OwnFault(err) {
			t.Errorf("%v does not count against the endpoint", err)
		}
	}
	for _, err := range []error{
		fmt.Errorf("dial: %w", context.Canceled), Fail(Denied, errors.New("no")), Fail(OverLimit, errors.New("no")),
		Fail(ClientGone, errors.New("no")), fmt.Errorf("dial: %w", ErrOwnWay),
	} {
		if !OwnFault(err) {
			t.Errorf("%v counts against the endpoint", err)
		}
	}
}

// TestDialsThatFailByTheirOwnWay: as the kernel words it.
func TestDialsThatFailByTheirOwnWay(t *testing.T) {
	for name, o := range map[string]Options{
		"another family":   {Source: netip.MustParseAddr("::1")},
		"not this host's":  {Source: netip.MustParseAddr("192.0.2.1")},
		"does not go with": {Source: netip.MustParseAddr("127.0.0.1")}, // EINVAL: from loopback to elsewhere
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		conn, err := dialTCP(ctx, netip.MustParseAddrPort("198.51.100.1:80"), &o)
		cancel()
		if err == nil {
			conn.Close()
		}
		if !OwnFault(err) {
			t.Errorf("%s: %v counts against the endpoint", name, err)
		}
	}
}

// TestAnEndpointThatRefusesThePreface is no failure of the dial: others may come without.
func TestAnEndpointThatRefusesThePreface(t *testing.T) {
	dialled := make(chan struct{})
	refusing := serving(t, func(c *net.TCPConn) { <-dialled; reset(c) })
	s := &Server{Dial: func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
		conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(refusing.Addr))
		if err == nil {
			close(dialled)
			wait(t, "it was reset", func() bool { return gone(conn) })
		}
		return conn, err
	}}
	_, err := s.dial(t.Context(), &Route{Preface: []byte("PROXY UNKNOWN\r\n")}, refusing.Addr)
	if !OwnFault(err) {
		t.Errorf("%v counts against the endpoint", err)
	}
}
