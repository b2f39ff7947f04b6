package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// crowd bounds how many conversations there are at once.
const crowd = 16

// Handler leads a conversation after its request. The connection is closed when it
// returns.
type Handler func(ctx context.Context, c *Conn, r Request)

// Server answers at any number of sockets. Set its fields before the first Serve.
type Server struct {
	Handlers map[string]Handler // by request
	Log      *slog.Logger

	once  sync.Once
	slots chan struct{}
}

// Listen takes name. It fails when somebody has it.
func Listen(name string) (*net.UnixListener, error) {
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("another process has the socket %s: %w", name, syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", name, err)
	}
	return listener, nil
}

// Reload is the request to read the configuration again.
const Reload = "reload"

// Reopen makes a socket that another process has listened at ours: whoever dials it is
// told of our process, not of that one.
func Reopen(listener *net.UnixListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	var errno error
	if err := raw.Control(func(fd uintptr) { errno = unix.Listen(int(fd), unix.SOMAXCONN) }); err != nil {
		return err
	}
	return os.NewSyscallError("listen", errno)
}

// Serve answers at listener until listening ends, and returns when the last
// conversation has ended, which talking bounds. It closes listener.
func (s *Server) Serve(talking, listening context.Context, listener *net.UnixListener) {
	s.once.Do(func() { s.slots = make(chan struct{}, crowd) })
	stop := context.AfterFunc(listening, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	var conversations sync.WaitGroup
	defer conversations.Wait()
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return
		default: // no descriptor is left, say
			s.Log.Warn("cannot accept at the control socket", "error", err)
			select {
			case <-time.After(time.Second):
				continue
			case <-listening.Done():
				return
			}
		}
		c := &Conn{unix: conn}
		if err := c.samePeer(); err != nil { // before it takes a slot from those who may
			s.Log.Warn("refused at the control socket", "error", err)
			c.Close()
			continue
		}
		select {
		case s.slots <- struct{}{}:
			conversations.Go(func() {
				defer func() { <-s.slots }()
				s.converse(talking, c)
			})
		case <-listening.Done():
			c.Close()
			return
		}
	}
}

func (s *Server) converse(ctx context.Context, c *Conn) {
	defer c.Close()
	var r Request
	fds, err := c.Receive(&r, 0)
	CloseAll(fds) // no request has any
	if err != nil {
		s.Log.Warn("no request at the control socket", "error", err)
		return
	}
	handle := s.Handlers[r.Request]
	switch {
	case r.Version != Version:
		err = hint.Errorf("stop the daemon and start the other version", "the daemon speaks version %d of the control socket, not %d", Version, r.Version)
	case handle == nil:
		err = hint.Errorf("update the daemon", "the daemon knows no request %q", r.Request)
	default:
		handle(ctx, c, r)
		return
	}
	s.Log.Warn("cannot answer at the control socket", "error", err)
	_ = c.Send(AnswerOf(err)) // who has left asks for nothing
}
