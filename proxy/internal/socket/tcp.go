package socket

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultKeepAlive is how long package net leaves a connection silent before it is
// probed, and between probes. Connections with just that are left as they are.
const DefaultKeepAlive = 15 * time.Second

// SetKeepAlive has the kernel ask a silent peer every interval whether it is still
// there, first after idle, and break the connection when it has not answered
// keepAliveProbes times (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT). Both
// are rounded up to seconds. idle 0 turns it off; interval 0 means idle, or
// maxKeepAliveInterval if that is less.
func SetKeepAlive(conn *net.TCPConn, idle, interval time.Duration) error {
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

// SetUserTimeout has the kernel break the connection when what was sent has not
// been acknowledged, or could not be sent, for d (tcp(7): TCP_USER_TIMEOUT). It is
// rounded up to milliseconds; 0 leaves it to the kernel, which gives up after some
// 15 minutes. Where it is set it also decides, instead of the number of probes,
// when keep-alive gives up.
func SetUserTimeout(conn *net.TCPConn, d time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var fail error
	err = raw.Control(func(fd uintptr) {
		fail = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, Milliseconds(d))
	})
	if err != nil {
		return err
	}
	if fail != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", fail)
	}
	return nil
}

// Milliseconds is d as the kernel takes it, rounded up.
func Milliseconds(d time.Duration) int {
	const most = 1<<31 - 1
	return int(min((max(d, 0)+time.Millisecond-1)/time.Millisecond, most))
}

// IdleForFD is how long no byte has come or gone on either of two connections, as the kernel
// has it (tcp(7), TCP_INFO). Data that is sent again counts, keep-alive probes do
// not. So an idle timeout costs the data path nothing.
func IdleForFD(client, upstream int) (time.Duration, error) {
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

// Gone reports whether the peer has reset conn: the kernel has then put the
// socket into the state CLOSE (tcp(7), TCP_INFO). It is true, too, of a connection
// that both have ended, and of one that has been closed by us.
func Gone(conn *net.TCPConn) bool {
	info, err := infoOf(conn)
	return err != nil || info.State == StateClose
}

// EndedFirst reports whether the peer of a socket that is gone had ended its stream before
// it reset the connection. The kernel has another error for that, EPIPE, which is taken.
func EndedFirst(fd int) bool { return ErrorOf(fd) == unix.EPIPE }

// ErrorOf is the error of a socket that nobody has been told of yet (socket(7), SO_ERROR), which is
// taken; 0 is none.
func ErrorOf(fd int) unix.Errno {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return unix.EBADF
	}
	return unix.Errno(errno)
}

// Reset closes conn with a RST instead of a FIN: what was refused or cut short
// must not look like a clean end of stream.
func Reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails only if conn is closed already
	_ = conn.Close()
}

// GoneFD is Gone of a descriptor that package net does not have, as all that follow.
func GoneFD(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == StateClose
}

// SetLinger has the close of fd reset the connection.
func SetLinger(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// ResetFD is Reset of a descriptor.
func ResetFD(fd int) {
	SetLinger(fd)
	Close(fd)
}

// KeepAliveFD does what package net does for its connections, and then proxy.Options do.
func KeepAliveFD(fd int, every time.Duration) {
	if every < 0 {
		return
	}
	probes := keepAliveProbes
	if every == 0 || every == DefaultKeepAlive {
		every, probes = DefaultKeepAlive, defaultKeepAliveProbes
	}
	seconds := int32((every + time.Second - 1) / time.Second)
	SetInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds)
	SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds)
	SetInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int32(probes))
}

// defaultKeepAliveProbes is package net's.
const defaultKeepAliveProbes = 9

// Detach takes the socket of a connection from package net. It reports false when no
// descriptor is left, or it has been closed.
func Detach(conn *net.TCPConn) (fd int, ok bool) {
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

// DuplicatePair makes a descriptor of each of two sockets; ok is false when none is left for one.
func DuplicatePair(one, other int) (a, b int, ok bool) {
	a, err := unix.FcntlInt(uintptr(one), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, -1, false
	}
	b, err = unix.FcntlInt(uintptr(other), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		Close(a)
		return -1, -1, false
	}
	return a, b, true
}

// KeepUrgentInLine has an urgent byte stay at its place in the stream, where the relay finds it.
func KeepUrgentInLine(fd int) { SetInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }
