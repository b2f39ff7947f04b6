package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rights"
)

const (
	// mostConversations bounds how many conversations there are at once.
	mostConversations = 16
	// share bounds how many of them are with one process.
	share = mostConversations / 2
	// talkPatience bounds a conversation: a handover waits for an engine, and for iptables.
	talkPatience = 5 * time.Minute

	// failuresPerSecond and failuresAtOnce bound what is logged of failed conversations.
	failuresPerSecond = 1
	failuresAtOnce    = 5
)

// Handler leads a conversation after its request. The connection is closed when it
// returns, and when ctx ends.
type Handler func(ctx context.Context, c *Conn, r Request)

// Server answers at any number of sockets. Set its fields before the first Serve.
type Server struct {
	Handlers map[string]Handler // by request
	Log      *slog.Logger
	// Shared lets processes of other mount namespaces speak, which have the folder by a
	// mount.
	Shared bool

	once     sync.Once
	slots    chan struct{}
	failures failures

	mu      sync.Mutex
	talking map[int]int // conversations by process
}

// Reload is the request to read the configuration again.
const Reload = "reload"

// ReloadPatience is for how long a daemon that is asked to reload works on its answer.
const ReloadPatience = 30 * time.Second

// failures logs what failed, so often that a person sees it and no log is filled.
type failures struct {
	mu      sync.Mutex
	limiter *rate.Limiter
	left    int
}

func (f *failures) warn(log *slog.Logger, text string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.limiter.Allow() {
		f.left++
		return
	}
	args := []any{"error", err, hint.Attr(err)}
	if f.left > 0 {
		args = append(args, "left_out", f.left)
		f.left = 0
	}
	log.Warn(text, args...)
}

// Serve answers at listener until listening ends, and returns when the last
// conversation has ended, which talking bounds. It closes listener.
func (s *Server) Serve(talking, listening context.Context, listener *net.UnixListener) {
	s.once.Do(func() {
		s.slots = make(chan struct{}, mostConversations)
		s.failures.limiter = rate.NewLimiter(failuresPerSecond, failuresAtOnce)
		s.talking = map[int]int{}
	})
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
			s.failures.warn(s.Log, "cannot accept at the control socket", err)
			select {
			case <-time.After(time.Second):
				continue
			case <-listening.Done():
				return
			}
		}
		c := &Conn{unix: conn}
		pid, err := s.admit(c)
		if err != nil { // before it takes a slot from those who may
			s.failures.warn(s.Log, "refused at the control socket", err)
			_ = c.Send(AnswerOf(err)) // a fresh socket has room for it
			c.Close()
			continue
		}
		select {
		case s.slots <- struct{}{}:
			conversations.Go(func() {
				defer func() { s.leave(pid); <-s.slots }()
				s.converse(talking, c)
			})
		case <-listening.Done():
			s.leave(pid)
			c.Close()
			return
		}
	}
}

// admit refuses a peer that may not speak, or speaks too much. leave has to follow for
// its process.
func (s *Server) admit(c *Conn) (pid int, err error) {
	peer, err := c.Peer()
	if err != nil {
		return 0, err
	}
	defer peer.Close()
	if s.Shared {
		err = peer.sameUser()
	} else {
		err = peer.SameSystem()
	}
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.talking[peer.PID] >= share {
		return 0, hint.Errorf("end it", "%s has %d conversations already", peer, share)
	}
	s.talking[peer.PID]++
	return peer.PID, nil
}

func (s *Server) leave(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.talking[pid]--; s.talking[pid] == 0 {
		delete(s.talking, pid)
	}
}

func (s *Server) converse(ctx context.Context, c *Conn) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, talkPatience)
	defer cancel()
	defer context.AfterFunc(ctx, c.Close)()
	var r Request
	fds, err := c.Receive(&r, 0)
	rights.Close(fds) // no request has any
	if errors.Is(err, io.EOF) {
		return // it has looked who is here
	}
	if err != nil {
		s.failures.warn(s.Log, "no request at the control socket", err)
		return
	}
	handle := s.Handlers[r.Request]
	switch {
	case r.Version != Version:
		err = hint.Errorf("stop the daemon and start the other version", "the daemon speaks version %d of the control socket, not %d", Version, r.Version)
	case handle == nil:
		err = hint.Errorf("update the daemon", "the daemon knows no request %q", shorten(r.Request))
	default:
		handle(ctx, c, r)
		return
	}
	s.failures.warn(s.Log, "cannot answer at the control socket", err)
	_ = c.Send(AnswerOf(err)) // who has left asks for nothing
}

// shorten keeps what a peer has sent from filling a line.
func shorten(text string) string {
	const most = 64
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
