package proxy

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setKeepAlive has the kernel ask a silent peer every interval whether it is still
// there, first after idle, and break the connection when it has not answered
// keepAliveProbes times (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT). Both
// are rounded up to seconds. idle 0 turns it off; interval 0 means idle, or
// maxKeepAliveInterval if that is less.
func setKeepAlive(conn *net.TCPConn, idle, interval time.Duration) error {
	if idle <= 0 {
		return conn.SetKeepAlive(false)
	}
	if interval <= 0 {
		interval = min(idle, maxKeepAliveInterval)
	}
	return conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: interval, Count: keepAliveProbes})
}

const (
	keepAliveProbes      = 5
	maxKeepAliveInterval = 15 * time.Second
)

// setUserTimeout has the kernel break the connection when what was sent has not
// been acknowledged, or could not be sent, for d (tcp(7): TCP_USER_TIMEOUT). It is
// rounded up to milliseconds; 0 leaves it to the kernel, which gives up after some
// 15 minutes. Where it is set it also decides, instead of the number of probes,
// when keep-alive gives up.
func setUserTimeout(conn *net.TCPConn, d time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var fail error
	err = raw.Control(func(fd uintptr) {
		fail = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, milliseconds(d))
	})
	if err != nil {
		return err
	}
	if fail != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", fail)
	}
	return nil
}

func milliseconds(d time.Duration) int {
	const most = 1<<31 - 1
	return int(min((max(d, 0)+time.Millisecond-1)/time.Millisecond, most))
}

// idleForFD is how long no byte has come or gone on either of two connections, as the kernel
// has it (tcp(7), TCP_INFO). Data that is sent again counts, keep-alive probes do
// not. So an idle timeout costs the data path nothing.
func idleForFD(client, upstream int) (time.Duration, error) {
	c, clientErr := unix.GetsockoptTCPInfo(client, unix.IPPROTO_TCP, unix.TCP_INFO)
	u, upstreamErr := unix.GetsockoptTCPInfo(upstream, unix.IPPROTO_TCP, unix.TCP_INFO)
	return idleBy(c, clientErr, u, upstreamErr)
}

func idleBy(client *unix.TCPInfo, clientErr error, upstream *unix.TCPInfo, upstreamErr error) (time.Duration, error) {
	switch {
	case clientErr != nil:
		return 0, fmt.Errorf("the client's connection: %w", clientErr)
	case upstreamErr != nil:
		return 0, fmt.Errorf("the endpoint's connection: %w", upstreamErr)
	}
	ago := min(client.Last_data_sent, client.Last_data_recv, upstream.Last_data_sent, upstream.Last_data_recv)
	return time.Duration(ago) * time.Millisecond, nil
}

// infoOf asks the kernel for the state of a connection; it fails when the
// connection has been closed by us.
func infoOf(conn *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fail error
	err = raw.Control(func(fd uintptr) {
		info, fail = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil {
		return nil, err
	}
	return info, fail
}

// gone reports whether the peer has reset conn: the kernel has then put the
// socket into the state CLOSE (tcp(7), TCP_INFO). It is true, too, of a connection
// that both have ended, and of one that has been closed by us.
func gone(conn *net.TCPConn) bool {
	info, err := infoOf(conn)
	return err != nil || info.State == tcpClose
}

// endedFirst reports whether the peer of a socket that is gone had ended its stream before
// it reset the connection. The kernel has another error for that, EPIPE, which is taken.
func endedFirst(fd int) bool {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err == nil && unix.Errno(errno) == unix.EPIPE
}

// reset closes conn with a RST instead of a FIN: what was refused or cut short
// must not look like a clean end of stream.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails only if conn is closed already
	_ = conn.Close()
}

// What follows is the same for descriptors that package net does not have.

func goneFD(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == tcpClose
}

func setLinger(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func resetFD(fd int) {
	setLinger(fd)
	closeRaw(fd)
}

// keepAliveFD does what package net does for its connections, and Options.apply after it.
func keepAliveFD(fd int, every time.Duration) {
	if every < 0 {
		return
	}
	probes := keepAliveProbes
	if every == 0 || every == DefaultKeepAlive {
		every, probes = DefaultKeepAlive, defaultKeepAliveProbes
	}
	seconds := int32((every + time.Second - 1) / time.Second)
	setRaw(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	setRaw(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds)
	setRaw(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds)
	setRaw(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int32(probes))
}

// defaultKeepAliveProbes is package net's.
const defaultKeepAliveProbes = 9

// detach takes the socket of a connection from package net. It reports false when no
// descriptor is left, or it has been closed.
func detach(conn *net.TCPConn) (fd int, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, false
	}
	var dupErr error
	err = raw.Control(func(of uintptr) { fd, dupErr = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil || dupErr != nil {
		return -1, false
	}
	conn.Close()
	return fd, true
}
