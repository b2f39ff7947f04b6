package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Client is who opened a connection, as the log names it.
type Client struct {
	// Name is a container's name, or an address when it is no container.
	Name string
	// ID is the container's short ID; "" when it is no container.
	ID string
	// Service is the Compose or Swarm service, "" if none.
	Service string
}

// Endpoint is a place to dial.
type Endpoint struct {
	Addr netip.AddrPort
	// Name is for people: a container's name, a service instance's ID.
	Name string
}

// Route is the answer for one connection.
type Route struct {
	Client Client
	// Port is the port that the client dialled.
	Port uint16
	// Target is the binding's target as it was declared.
	Target string
	// Endpoints are in the order in which to try them.
	Endpoints []Endpoint
	// DialTimeout bounds the search for an endpoint that answers; 0 means the
	// server's own.
	DialTimeout time.Duration
	// Dial opens a connection to one of Endpoints; nil means the server's way.
	Dial func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)
	// Ended is called when the connection has ended, whatever became of it; nil
	// means nobody waits for that.
	Ended func()
}

// Router finds the route of a connection. On failure it returns as much of the
// route as it knows, for the log, and a *Failure. It must not read from or write
// to the connection.
type Router interface {
	Route(ctx context.Context, conn *net.TCPConn) (Route, error)
}

// RouterFunc is a function as a Router.
type RouterFunc func(ctx context.Context, conn *net.TCPConn) (Route, error)

// Route calls f.
func (f RouterFunc) Route(ctx context.Context, conn *net.TCPConn) (Route, error) { return f(ctx, conn) }

// Record is what is said of one connection when it has ended.
type Record struct {
	Route    Route
	Source   netip.AddrPort // the client's address
	Endpoint Endpoint       // the one that answered; zero if none did
	Attempts int            // endpoints dialled
	Up       int64          // bytes from client to endpoint
	Down     int64          // bytes from endpoint to client
	Duration time.Duration  // from accept to the end
	Err      error          // nil, or a *Failure
}

// Live is a connection whose both ends are up.
type Live struct {
	Route    Route
	Source   netip.AddrPort // the client's address
	Endpoint Endpoint
	Attempts int // endpoints dialled
	Accepted time.Time
	Client   *net.TCPConn
	Upstream *net.TCPConn
}

// Server carries connections for any number of listeners. Set its fields before
// the first Serve.
type Server struct {
	// Dial opens a connection to an endpoint; nil means plain TCP.
	Dial func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)
	// DialTimeout bounds the search for an endpoint that answers, over all
	// attempts. 0 means 10 s.
	DialTimeout time.Duration
	// AttemptTimeout bounds one attempt while other endpoints are left to try. 0
	// means 1.5 s: enough for one lost SYN, which is sent again after 1 s
	// (RFC 6298).
	AttemptTimeout time.Duration
	// Keep is shown every connection whose both ends are up, before a byte is
	// copied; release is called at its end. It must not read from or write to
	// them. nil means nobody is shown any.
	Keep func(Live) (release func())
	// Done is told of every connection once, at its end; nil means nobody is.
	Done func(Record)
	// Log is told when accepting fails; nil means nobody is.
	Log *slog.Logger

	connections sync.WaitGroup
	once        sync.Once
	ctx         context.Context // of every connection; ends when draining has lasted long enough
	expire      context.CancelCauseFunc
}

const (
	defaultDialTimeout    = 10 * time.Second
	defaultAttemptTimeout = 1500 * time.Millisecond
	firstAcceptPause      = 5 * time.Millisecond
	longestAcceptPause    = time.Second
)

// Serve accepts on listener until it is closed or ctx ends, and carries each
// connection in a goroutine of its own that Drain waits for. It closes listener.
// A failure to accept (no descriptors left, say) is waited out, not fatal.
func (s *Server) Serve(ctx context.Context, listener *net.TCPListener, router Router) error {
	s.init()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	pause := firstAcceptPause
	for {
		conn, err := listener.AcceptTCP()
		switch {
		case err == nil:
			pause = firstAcceptPause
			accepted := time.Now()
			s.connections.Go(func() { s.carry(s.ctx, conn, accepted, router) })
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			if s.Log != nil {
				s.Log.Warn("cannot accept", "listener", listener.Addr().String(), "error", err, "retry_in", pause.String())
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, longestAcceptPause)
		}
	}
}

// Drain waits until every connection has ended. When ctx ends first, the rest
// are reset, with the reason drain_timeout, and then waited for. No Serve may
// be running any more.
func (s *Server) Drain(ctx context.Context) {
	s.init()
	stop := context.AfterFunc(ctx, func() { s.expire(errDrained) })
	defer stop()
	s.connections.Wait()
}

// init makes the context of connections. What has been accepted is carried to
// its end although accepting stops, so it does not descend from Serve's.
func (s *Server) init() {
	s.once.Do(func() { s.ctx, s.expire = context.WithCancelCause(context.Background()) })
}
