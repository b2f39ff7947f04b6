package socket

import (
	"context"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// WaitGone waits until the client of a held connection has given up, and reports
// whether it has; false means that ctx ended first. A client has given up when it
// has reset the connection, or has ended its stream without having sent anything:
// while nobody answers there is nothing it could be waiting for. One that has sent
// a request and then ended its stream waits for the answer.
//
// No byte is read from conn, and those that were read before count as sent; nobody else
// may read it or set its read deadline meanwhile. Afterwards conn is as it was. The
// caller's goroutine waits in the network poller: a held connection costs nothing until
// something comes.
func WaitGone(ctx context.Context, conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = conn.SetReadDeadline(LongAgo) // fails only if conn is closed already, and then nobody waits
	})
	left := false
	err = raw.Read(func(fd uintptr) bool {
		left = HasGivenUp(int(fd))
		return left
	})
	if !stop() {
		<-woken
		_ = conn.SetReadDeadline(time.Time{})
	}
	return left || err != nil && ctx.Err() == nil // closed by us, which nobody should have done
}

// LongAgo as a deadline wakes the goroutine that waits.
var LongAgo = time.Unix(1, 0)

// HasGivenUp reports whether the client at fd has given up, as WaitGone says.
func HasGivenUp(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return true
	}
	switch info.State {
	case StateClose:
		return true
	case StateCloseWait:
		return info.Bytes_received <= 1 // the end of a stream counts as a byte
	}
	return false
}
