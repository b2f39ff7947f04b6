// Package control is the socket at which a running daemon is spoken to by other
// processes of its user: by its successor, and by commands.
//
// It is a Unix socket of whole packets (SOCK_SEQPACKET, unix(7)) in the folder of
// internal/rundir, which containers do not have. Each packet is one JSON object, with
// descriptors beside it where the conversation says so (SCM_RIGHTS). Fields are added,
// never changed, and unknown ones are passed over, so that different versions understand
// each other; [Version] counts what they would not.
//
// The folder decides who can dial. Beside it the daemon looks at who has: a peer of
// another user is refused, and one of another mount namespace, which has the folder by a
// mount (see [Peer]). Both ends wait for nothing without a bound.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rights"
)

// Version is that of the conversation.
const Version = 1

const (
	// patience is how long a peer may take to take a packet, or to send one that it owes
	// at once.
	patience = 5 * time.Second
	// maxPacket bounds a packet in bytes.
	maxPacket = 64 << 10
	// MaxDescriptors is how many may go with a packet, below what the kernel allows
	// (SCM_MAX_FD, 253).
	MaxDescriptors = 128
)

// ErrNobody says that no daemon listens at a name.
var ErrNobody = errors.New("no daemon is there")

// Request opens a conversation.
type Request struct {
	Version int `json:"version"`
	// Request is what is wanted: a key of Server.Handlers.
	Request string `json:"request"`
	// Program is the peer's version, for the log.
	Program string `json:"program,omitempty"`
	// Process is the peer's process ID in its own PID namespace, for the log.
	Process int `json:"process,omitempty"`
}

// Answer says how a request ended, where nothing else is to be said.
type Answer struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// AnswerOf makes an Answer of err, which may be nil.
func AnswerOf(err error) Answer {
	if err == nil {
		return Answer{}
	}
	return Answer{Error: err.Error(), Hint: hint.Of(err)}
}

// Err is what the answer says, nil if all is well.
func (a Answer) Err() error {
	if a.Error == "" {
		return nil
	}
	return hint.Wrap(errors.New(a.Error), a.Hint)
}

// Conn is one conversation. One goroutine may send while another receives.
type Conn struct{ unix *net.UnixConn }

// Dial reaches the daemon at the socket path, and makes sure that it is of our own user.
func Dial(path string) (*Conn, error) {
	dialer := net.Dialer{Timeout: patience}
	conn, err := dialer.Dial("unixpacket", path)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNobody
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	c := &Conn{unix: conn.(*net.UnixConn)}
	peer, err := c.Peer()
	if err == nil {
		err = peer.sameUser()
		peer.Close()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Another is a second Conn of the same conversation, for what is to be said when the handler of the
// request has returned, which ends the first.
func (c *Conn) Another() (*Conn, error) {
	file, err := c.unix.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return &Conn{unix: conn.(*net.UnixConn)}, nil
}

// Ask sends a request; what follows is the conversation of its kind. If the daemon has
// refused us before that, the error is its answer.
func (c *Conn) Ask(request, program string) error {
	err := c.Send(Request{Version: Version, Request: request, Program: program, Process: os.Getpid()})
	if !errors.Is(err, unix.EPIPE) {
		return err
	}
	var a Answer
	fds, receiveErr := c.Receive(&a, 0)
	rights.Close(fds)
	if receiveErr == nil && a.Err() != nil {
		return a.Err()
	}
	return err
}

// Peer is who is at the other end. Close it.
func (c *Conn) Peer() (*Peer, error) { return PeerOf(c.unix) }

// Send sends a packet, with descriptors, which stay ours. It fails when the peer does
// not take it within 5 s.
func (c *Conn) Send(packet any, fds ...int) error {
	text, err := json.Marshal(packet)
	if err != nil {
		return err
	}
	if len(text) > maxPacket || len(fds) > MaxDescriptors {
		return fmt.Errorf("a packet of %d bytes and %d descriptors is too large", len(text), len(fds))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := c.unix.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _, err = c.unix.WriteMsgUnix(text, oob, nil)
	return err
}

// Receive receives a packet and its descriptors, which are the caller's then. It waits
// for as long as within says; 0 means 5 s, and less than 0 for ever. The error is
// io.EOF when the peer has gone.
func (c *Conn) Receive(packet any, within time.Duration) (fds []int, err error) {
	var deadline time.Time
	if within >= 0 {
		if within == 0 {
			within = patience
		}
		deadline = time.Now().Add(within)
	}
	if err := c.unix.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	text, oob := make([]byte, maxPacket), make([]byte, rights.Room(MaxDescriptors))
	n, fds, flags, err := rights.Receive(c.unix, text, oob)
	if errors.Is(err, syscall.ECONNRESET) {
		// The peer has closed without reading all that we sent. The kernel says so
		// once, before what the peer sent.
		n, fds, flags, err = rights.Receive(c.unix, text, oob)
	}
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	switch {
	case flags&unix.MSG_CTRUNC != 0:
		err = hint.Errorf("raise LimitNOFILE, or ulimit -n", "not all descriptors of a packet could be received: too many are open")
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("a packet of more than %d bytes", maxPacket)
	default:
		err = json.Unmarshal(text[:n], packet)
	}
	if err != nil {
		rights.Close(fds)
		return nil, err
	}
	return fds, nil
}

// Ended reports whether the peer has ended the conversation, and nothing of it is left to
// be received. It does not wait. After Close it says no: that was our end.
func (c *Conn) Ended() bool {
	raw, err := c.unix.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ended = n <= 0 && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return ended && err == nil
}

// Close ends the conversation.
func (c *Conn) Close() { c.unix.Close() }
