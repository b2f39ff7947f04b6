package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// splice copies both ways until both are done, and closes both connections. The
// end of one stream is passed on as the end of that stream alone (half-close,
// RFC 9293 §3.6); a reset of one connection is passed on as a reset of the other.
// A direction that is over already is left alone. When ctx ends both are reset and
// ctx's cause is the error.
func splice(ctx context.Context, client, upstream *net.TCPConn, over ended) (up, down int64, err error) {
	stop := context.AfterFunc(ctx, func() {
		reset(client)
		reset(upstream)
	})
	upDone := make(chan copied, 1)
	if over.up {
		upDone <- copied{}
	} else {
		go copyUp(upstream, client, upDone)
	}
	var d copied
	if !over.down {
		d = copyStream(client, upstream)
	}
	u := <-upDone

	if !stop() {
		return u.bytes, d.bytes, context.Cause(ctx)
	}
	if u.gone == nil && d.gone == nil {
		client.Close()
		upstream.Close()
		return u.bytes, d.bytes, nil
	}
	reset(client)
	reset(upstream)
	return u.bytes, d.bytes, whoLeft(client, u, d)
}

// ended is which directions are over.
type ended struct{ up, down bool }

// copyUp is named so that a stack dump says which way a goroutine copies; down
// is splice itself.
func copyUp(upstream, client *net.TCPConn, done chan<- copied) {
	done <- copyStream(upstream, client)
}

// copied is how one direction ended.
type copied struct {
	bytes int64
	err   error
	gone  *net.TCPConn // the connection that broke; nil at a clean end
}

// copyStream copies src to dst until src ends or either breaks. io.Copy between
// two *net.TCPConn is splice(2) in the kernel; the bytes are counted from its own
// return value because a counting writer would turn that off.
func copyStream(dst, src *net.TCPConn) copied {
	n, err := io.Copy(dst, src)
	if err == nil {
		err = dst.CloseWrite()
	}
	if err == nil {
		return copied{bytes: n}
	}
	// The error does not say whose it is; the socket's state does. Whichever
	// broke, the other must not be waited for: if dst broke nobody reads what src
	// sends, and if src broke nothing follows for dst. What dst still sends the
	// other way has reached us before the reset did and is copied by the other
	// direction, so it is src that is cut when dst is gone, and the other way
	// round.
	c := copied{bytes: n, err: err}
	switch {
	case gone(dst):
		c.gone = dst
	case gone(src):
		c.gone = src
		reset(dst)
	default:
		c.gone = src
		reset(src)
		reset(dst)
	}
	return c
}

// whoLeft names the side that broke.
func whoLeft(client *net.TCPConn, directions ...copied) error {
	for _, c := range directions {
		if c.gone == nil {
			continue
		}
		if c.gone == client {
			return Fail(ClientGone, fmt.Errorf("the client broke the connection: %w", plain(c.err)))
		}
		return Fail(EndpointGone, fmt.Errorf("the endpoint broke the connection: %w", plain(c.err)))
	}
	return nil
}

// plain strips the addresses of an operation error: the log line has them.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// reset closes conn with a RST instead of a FIN: what was refused or cut short
// must not look like a clean end of stream.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails only if conn is closed already
	_ = conn.Close()
}

// gone reports whether the peer has reset conn: the kernel has then put the
// socket into the state CLOSE (tcp(7), TCP_INFO).
func gone(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	closed := true // also when conn has been closed by us
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err != nil || info.State == tcpClose
	})
	return closed
}
