package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// mostReplayed is how much a client may have sent if it is to be sent again. Its bytes
// wait in the kernel meanwhile, whose receive buffer has to hold them.
const mostReplayed = 16 << 10

// firstByte sends the endpoint that was found what the client sends, without taking it
// from the client's socket, until the endpoint has sent its first byte; then a relay
// goes on from here. An error says that the connection broke or ended before that, so
// that all of it may be tried again elsewhere, or that the client has left.
func (s *search) firstByte(ctx context.Context) error {
	o := &opening{client: s.client, upstream: s.conn}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		o.endSending()
		o.endAwaiting()
	})
	answered := make(chan error, 1)
	s.server.connections.Go(func() { answered <- o.awaitFirstByte() })
	o.send()
	err := <-answered
	if !stop() {
		<-interrupted
	}
	o.settle()
	switch {
	case ctx.Err() != nil, err == nil, o.tooMuch:
		return s.takeSent(o)
	case o.left:
		return fmt.Errorf("%w before the endpoint's first byte", errClientLeft)
	}
	return err
}

// takeSent takes from the client what the endpoint has been sent.
func (s *search) takeSent(o *opening) error {
	s.over.up, s.sent = o.finished, o.sent
	if _, err := io.CopyN(io.Discard, s.client, int64(o.sent)); err != nil { // it has been seen there
		return fmt.Errorf("%w: %w", errClientLeft, err)
	}
	return nil
}

// opening is a connection before the endpoint's first byte. Two goroutines wait in the
// network poller, one for either end.
type opening struct {
	client, upstream *net.TCPConn

	// What follows belongs to send.
	sent     int  // of the client's bytes, which are still in its socket
	finished bool // the end of its stream has been passed on
	tooMuch  bool // it sends more than can be sent again
	left     bool
}

// awaitFirstByte returns nil once the endpoint has sent a byte, which stays in its
// socket, and then ends send.
func (o *opening) awaitFirstByte() error {
	defer o.endSending()
	raw, err := o.upstream.SyscallConn()
	if err != nil {
		return err
	}
	var seen error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return false
		case err != nil:
			seen = fmt.Errorf("the endpoint broke the connection before its first byte: %w", err)
		case n == 0:
			seen = errors.New("the endpoint ended the connection before its first byte")
		}
		return true
	})
	return errors.Join(seen, err)
}

// send sends what the client has sent, and the end of its stream, as it comes.
func (o *opening) send() {
	raw, err := o.client.SyscallConn()
	if err != nil {
		o.left = true
		o.endAwaiting()
		return
	}
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for !o.tooMuch && !o.left {
		n, end := 0, false
		err := raw.Read(func(fd uintptr) bool {
			n, end = o.look(fd, buffer[:mostReplayed])
			return n > o.sent || end || o.left
		})
		switch {
		case err != nil: // the endpoint has answered, or there is no hope any more
			return
		case n > o.sent:
			written, err := o.upstream.Write(buffer[o.sent:n])
			o.sent += written
			if err != nil {
				return // the other end is seen to be broken, too, or send has been ended
			}
			o.tooMuch = o.sent == mostReplayed
		case end:
			o.finished = true
			_ = o.upstream.CloseWrite() // likewise
		}
	}
	o.endAwaiting()
}

// look peeks at all that the client has sent; end is whether that is all there will be,
// and not yet passed on.
func (o *opening) look(fd uintptr, b []byte) (n int, end bool) {
	n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, false
	case err != nil:
		o.left = true
		return 0, false
	case n > o.sent:
		return n, false
	}
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	switch {
	case err != nil, info.State == socket.StateClose:
		o.left = true
	case info.State == socket.StateCloseWait:
		end = !o.finished
	}
	return n, end
}

// endSending ends send, and endAwaiting awaitFirstByte.
func (o *opening) endSending() {
	_ = o.client.SetReadDeadline(socket.LongAgo) // fails only on what has been closed, as all of these
	_ = o.upstream.SetWriteDeadline(socket.LongAgo)
}

func (o *opening) endAwaiting() { _ = o.upstream.SetReadDeadline(socket.LongAgo) }

// settle leaves both ends as they were.
func (o *opening) settle() {
	_ = o.client.SetDeadline(time.Time{})
	_ = o.upstream.SetDeadline(time.Time{})
}
