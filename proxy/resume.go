package proxy

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Resume carries on a connection that another process carried until it died, and Drain
// waits for it. Nobody else may use its two ends any more. What that process had read and
// not yet written died with it: if the kernel's counts show any such byte the connection
// is reset, with the reason daemon_gone, because a stream with a hole must not go on.
// ended, which may be nil, is called when it has ended.
func (s *Server) Resume(live Live, ended func()) {
	s.init()
	s.accepted.Add(1)
	s.connections.Add(1)
	leave := func() {
		if ended != nil {
			ended()
		}
	}
	so, err := carried(&live)
	if err == nil {
		r := &relay{
			route: &live.Route, verdict: &unjudged{live.Endpoint}, source: live.Source, attempts: int32(live.Attempts),
			more: &more{leave: leave, passed: so.passed},
		}
		r.up.finished, r.down.finished = so.over.up, so.over.down
		if s.relay(r, live.Client, live.Upstream, live.Accepted) {
			return
		}
		err = errNoDescriptors
	} else {
		err = Fail(DaemonGone, hint.Wrap(err, "what is at rest survives the daemon's death; look why it died"))
	}
	reset(live.Client)
	reset(live.Upstream)
	leave()
	s.gone(&Record{Route: live.Route, Source: live.Source, Endpoint: live.Endpoint, Attempts: live.Attempts, Err: err}, live.Accepted)
}

// ended is which directions are over.
type ended struct{ up, down bool }

// progress is what has been carried of a connection.
type progress struct {
	passed passed
	over   ended
}

// carried asks the kernel how far a connection is. The error says that bytes were
// read and not written, or that one of the ends is gone.
func carried(live *Live) (progress, error) {
	c, err := countOf(live.Client)
	if err != nil {
		return progress{}, fmt.Errorf("the client's connection: %w", err)
	}
	u, err := countOf(live.Upstream)
	if err != nil {
		return progress{}, fmt.Errorf("the endpoint's connection: %w", err)
	}
	// The kernel counts the SYN of a connection that we opened among the bytes that
	// were acknowledged; where it would not, no connection would look at rest.
	u.written -= 1 + uint64(len(live.Route.Preface))
	c.read -= uint64(live.Route.Read)
	if c.read != u.written || u.read != c.written {
		return progress{}, fmt.Errorf("the daemon died with %d bytes from the client and %d from the endpoint in its hands",
			c.read-u.written, u.read-c.written)
	}
	return progress{
		passed: passed{up: int64(c.read), down: int64(u.read)},
		over:   ended{up: u.finished, down: c.finished},
	}, nil
}

// count is how many bytes of a connection went through its socket, without those
// that wait in it to be read, and whether we have ended our stream.
type count struct {
	read, written uint64
	finished      bool
}

// countOf asks the kernel for the counts of a socket that nobody reads from or
// writes to: tcpi_bytes_received and tcpi_bytes_acked of TCP_INFO (RFC 4898), less
// what SIOCINQ and plus what SIOCOUTQ says (tcp(7)). Data and acknowledgements may
// come in between, so it asks until nothing did.
func countOf(conn *net.TCPConn) (count, error) {
	const tries = 100
	raw, err := conn.SyscallConn()
	if err != nil {
		return count{}, err
	}
	var (
		c    count
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
		return count{}, err
	}
	return c, fail
}

// The states of a connection in <netinet/tcp.h>.
const (
	tcpEstablished = iota + 1
	_              // SYN_SENT
	_              // SYN_RECV
	tcpFinWait1
	tcpFinWait2
	_ // TIME_WAIT, which no descriptor leads to
	tcpClose
	tcpCloseWait
	tcpLastAck
	_ // LISTEN
	tcpClosing
)

// countOnce looks once; done is false if a segment came in meanwhile.
func countOnce(fd int) (c count, done bool, err error) {
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
	c = count{read: after.Bytes_received - uint64(unread), written: after.Bytes_acked + uint64(unacked)}
	theirs := false // whether their stream has ended, too
	switch after.State {
	case tcpEstablished:
	case tcpCloseWait:
		theirs = true
	case tcpFinWait1, tcpFinWait2:
		c.finished = true
	case tcpLastAck, tcpClosing:
		theirs, c.finished = true, true
	case tcpClose: // both have, or one was reset
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err != nil {
			return c, false, err
		}
		theirs, c.finished = true, true
	default:
		return c, false, fmt.Errorf("it is in state %d", after.State)
	}
	if theirs { // the end of a stream counts as a byte, either way
		c.read--
	}
	if c.finished {
		c.written--
	}
	return c, true, nil
}
