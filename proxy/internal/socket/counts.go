package socket

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Count is how many bytes of a connection went through its socket, without those
// that wait in it to be read, and whether we have ended our stream.
type Count struct {
	Read, Written uint64
	Finished      bool
}

// CountOf asks the kernel for the counts of a socket that nobody reads from or
// writes to: tcpi_bytes_received and tcpi_bytes_acked of TCP_INFO (RFC 4898), less
// what SIOCINQ and plus what SIOCOUTQ says (tcp(7)). Data and acknowledgements may
// come in between, so it asks until nothing did.
func CountOf(conn *net.TCPConn) (Count, error) {
	const tries = 100
	raw, err := conn.SyscallConn()
	if err != nil {
		return Count{}, err
	}
	var (
		c    Count
		fail error
	)
	err = raw.Control(func(fd uintptr) {
		for range tries {
			var done bool
			if c, done, fail = countOnce(int(fd)); done || fail != nil {
				return
			}
		}
		fail = fmt.Errorf("its counts did not stand still in %d looks", tries)
	})
	if err != nil {
		return Count{}, err
	}
	return c, fail
}

// The states of a connection in <netinet/tcp.h>.
const (
	stateEstablished = iota + 1
	_                // SYN_SENT
	_                // SYN_RECV
	stateFinWait1
	stateFinWait2
	_ // TIME_WAIT, which no descriptor leads to
	StateClose
	StateCloseWait
	stateLastAck
	_ // LISTEN
	stateClosing
)

// countOnce looks once; done is false if a segment came in meanwhile.
func countOnce(fd int) (c Count, done bool, err error) {
	before, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return c, false, err
	}
	unread, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return c, false, err
	}
	unacked, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return c, false, err
	}
	after, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return c, false, err
	}
	if after.State != before.State || after.Bytes_received != before.Bytes_received || after.Bytes_acked != before.Bytes_acked {
		return c, false, nil
	}
	c = Count{Read: after.Bytes_received - uint64(unread), Written: after.Bytes_acked + uint64(unacked)}
	theirs := false // whether their stream has ended, too
	switch after.State {
	case stateEstablished:
	case StateCloseWait:
		theirs = true
	case stateFinWait1, stateFinWait2:
		c.Finished = true
	case stateLastAck, stateClosing:
		theirs, c.Finished = true, true
	case StateClose: // both have, or one was reset
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err != nil {
			return c, false, err
		}
		theirs, c.Finished = true, true
	default:
		return c, false, fmt.Errorf("it is in state %d", after.State)
	}
	if theirs { // the end of a stream counts as a byte, either way
		c.Read--
	}
	if c.Finished {
		c.Written--
	}
	return c, true, nil
}
