// Package rights is about descriptors that come with messages of a Unix socket (SCM_RIGHTS,
// unix(7)).
package rights

import (
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Room is the length of control data that holds so many descriptors.
func Room(descriptors int) int { return unix.CmsgSpace(descriptors * 4) }

// Receive reads a message into packet, and its control data into oob, of [Room]. It returns the
// length of the message, the descriptors that came with it, which are the caller's to close, and
// the flags of recvmsg(2): MSG_TRUNC if packet was too short, MSG_CTRUNC if oob was, or if this
// process has no room for more descriptors. io.EOF says that the peer has gone.
func Receive(conn *net.UnixConn, packet, oob []byte) (n int, fds []int, flags int, err error) {
	n, oobn, flags, _, err := conn.ReadMsgUnix(packet, oob)
	if err != nil {
		return 0, nil, 0, err
	}
	if n == 0 && oobn == 0 {
		return 0, nil, 0, io.EOF
	}
	return n, of(oob[:oobn]), flags, nil
}

func of(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// Close closes descriptors.
func Close(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
