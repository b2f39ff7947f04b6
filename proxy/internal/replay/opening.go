package replay

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// Most is how much a client may have sent if it is to be sent again. Its bytes
// wait in the kernel meanwhile, whose receive buffer has to hold them.
const Most = 16 << 10

// Opening is a connection before the endpoint's first byte. Two goroutines wait in the
// network poller, one for either end.
type Opening struct {
	Client, Upstream *net.TCPConn

	// What follows belongs to Send.
	Sent     int  // of the client's bytes, which are still in its socket
	Finished bool // the end of its stream has been passed on
	TooMuch  bool // it sends more than can be sent again
	Left     bool
}

// AwaitFirstByte returns nil once the endpoint has sent a byte, which stays in its
// socket, and then ends Send.
func (o *Opening) AwaitFirstByte() error {
	defer o.EndSending()
	raw, err := o.Upstream.SyscallConn()
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

// Send sends what the client has sent, and the end of its stream, as it comes. buffer has room for
// Most.
func (o *Opening) Send(buffer []byte) {
	raw, err := o.Client.SyscallConn()
	if err != nil {
		o.Left = true
		o.EndAwaiting()
		return
	}
	for !o.TooMuch && !o.Left {
		n, end := 0, false
		err := raw.Read(func(fd uintptr) bool {
			n, end = o.look(fd, buffer[:Most])
			return n > o.Sent || end || o.Left
		})
		switch {
		case err != nil: // the endpoint has answered, or there is no hope any more
			return
		case n > o.Sent:
			written, err := o.Upstream.Write(buffer[o.Sent:n])
			o.Sent += written
			if err != nil {
				return // the other end is seen to be broken, too, or Send has been ended
			}
			o.TooMuch = o.Sent == Most
		case end:
			o.Finished = true
			_ = o.Upstream.CloseWrite() // likewise
		}
	}
	o.EndAwaiting()
}

// look peeks at all that the client has sent; end is whether that is all there will be,
// and not yet passed on.
func (o *Opening) look(fd uintptr, b []byte) (n int, end bool) {
	n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, false
	case err != nil:
		o.Left = true
		return 0, false
	case n > o.Sent:
		return n, false
	}
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	switch {
	case err != nil, info.State == socket.StateClose:
		o.Left = true
	case info.State == socket.StateCloseWait:
		end = !o.Finished
	}
	return n, end
}

// EndSending ends Send.
func (o *Opening) EndSending() {
	_ = o.Client.SetReadDeadline(socket.LongAgo) // fails only on what has been closed, as all of these
	_ = o.Upstream.SetWriteDeadline(socket.LongAgo)
}

// EndAwaiting ends AwaitFirstByte.
func (o *Opening) EndAwaiting() { _ = o.Upstream.SetReadDeadline(socket.LongAgo) }

// Settle leaves both ends as they were.
func (o *Opening) Settle() {
	_ = o.Client.SetDeadline(time.Time{})
	_ = o.Upstream.SetDeadline(time.Time{})
}
