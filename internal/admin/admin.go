// Package admin is the admin interface: what the daemon knows, over HTTP, for commands and other
// programs.
//
//	socket.go       the Unix socket: made beside its path and renamed into place
//	tcp.go          the TCP socket, where one is asked for, and TLS
//	connections.go  how many connections there are at once, and which is closed for another
//	guard.go        which requests are refused before they are looked at; secrets.go: by what
//	routes.go       the routes, of whose types the OpenAPI document is made (schema.go)
//	events.go       the last events, and those to come
//	view.go         one snapshot for all requests of half a second
//	actions.go      what changes something, and from whom
//
// It takes functions and values, never the daemon, and each snapshot
// that it takes costs the data path nothing (internal/status).
package admin

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/status"
)

const (
	// headerPatience bounds the reading of a request's header, and a TLS handshake.
	headerPatience = 5 * time.Second
	// readPatience bounds the reading of a whole request.
	readPatience = 10 * time.Second
	// writePatience bounds a request from its header's end to the last byte of its answer.
	writePatience = 15 * time.Second
	// idlePatience is how long a connection may be kept for another request.
	idlePatience = time.Minute
	// mostHeader bounds a request's header, in bytes; net/http adds 4 KiB to it.
	mostHeader = 8 << 10
	// endPatience is how long requests have to end when the server does.
	endPatience = time.Second
)

// Config is what the interface serves, and where.
type Config struct {
	// Path is that of the Unix socket, and Group the name or number of the group that may dial it;
	// "" is our own. Without a Path there is none.
	Path, Group string
	// Quiet says that nobody has asked for the Path, so that to have no socket there is no failure: one
	// of several daemons on a host has it.
	Quiet bool
	// TCP is the TCP socket, nil for none.
	TCP *TCP
	// Program is the daemon's version.
	Program string
	// View looks at what the daemon knows now. It is called twice a second at most.
	View func() status.View
	// NotReady lists what the daemon still waits for; nothing where it serves all that it can. It
	// is called for each request of /readyz, and has to be cheap.
	NotReady func() []Unready
	// Metrics answers GET /metrics; nil for nothing.
	Metrics http.Handler
	// Events has what the daemon has told of; nil for nothing.
	Events Events
	// Actions are what can be changed; nil for nothing.
	Actions *Actions
	Log     *slog.Logger

	ending context.Context // of serving, for those who watch events
}

// Unready is something that the daemon still waits for.
type Unready struct {
	What string `json:"what" doc:"which part: engine, containers, service, handover or end" example:"engine"`
	Why  string `json:"why" doc:"what it waits for, or what has failed"`
	Hint string `json:"hint,omitempty" doc:"what to do about it"`
}

// DefaultPath is where the Unix socket is when nothing else is said: beside the folder of locks
// and control sockets and not in it, for that is its user's alone, and the socket may be a group's.
func DefaultPath() string {
	const name = "ambassadord.sock"
	if own := os.Getenv("XDG_RUNTIME_DIR"); os.Geteuid() != 0 && filepath.IsAbs(own) {
		return filepath.Join(own, name)
	}
	return "/run/" + name
}

// Server is the interface. A nil Server serves nothing.
type Server struct {
	config  Config
	guard   *guard
	serving []*http.Server

	ending  context.CancelFunc // of the search for a TCP port that is free
	running sync.WaitGroup

	mu     sync.Mutex
	socket *placed      // nil while there is no Unix socket
	tcp    *http.Server // nil while there is no TCP socket
}

// New checks what can be checked before anything is served; the error is a mistake of the
// configuration. It returns nil where nothing is to be served.
func New(c Config) (*Server, error) {
	if c.Path == "" && c.TCP == nil {
		return nil, nil
	}
	if _, err := groupID(c.Group); err != nil {
		return nil, err
	}
	s := &Server{config: c}
	if c.TCP != nil {
		var err error
		if s.guard, err = newGuard(c.TCP); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Serve begins to serve, until Close. What fails is logged, and the daemon goes on without it.
// predecessor reports whether the process with that ID, 0 for one out of our sight, is the daemon
// that we have taken over from, whose Unix socket is to be replaced; nil where there is none.
func (s *Server) Serve(predecessor func(pid int) bool) {
	if s == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.ending, s.config.ending = cancel, ctx
	routes := onDemand(func() http.Handler {
		routes, _ := newRoutes(s.config)
		return routes
	})
	if s.config.Path != "" {
		socket, err := place(s.config.Path, s.config.Group, predecessor)
		if err != nil {
			level := slog.LevelWarn
			if s.config.Quiet {
				level = slog.LevelInfo
			}
			s.config.Log.Log(ctx, level, "the admin interface has no Unix socket", "path", s.config.Path, "error", err, hint.Attr(err))
		} else {
			s.socket = socket
			s.serve(socket.listener, local(fairTurns(routes)))
			s.config.Log.Info("serving the admin interface", "path", s.config.Path)
		}
	}
	if s.config.TCP != nil {
		s.running.Go(func() {
			listener, err := s.config.TCP.listen(ctx, s.guard)
			if ctx.Err() != nil {
				if err == nil {
					listener.Close()
				}
				return
			}
			if err != nil {
				s.config.Log.Warn("the admin interface has no TCP socket", "address", s.config.TCP.Address, "error", err, hint.Attr(err))
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if ctx.Err() != nil {
				listener.Close()
				return
			}
			s.tcp = s.serve(listener, s.guard.remote(newTurns().of(routes)))
			s.config.Log.Info("serving the admin interface", "address", listener.Addr().String())
		})
	}
}

// onDemand makes a handler at the first request: the document and its schemas take memory that a
// daemon which nobody asks does without.
func onDemand(build func() http.Handler) http.Handler {
	made := sync.OnceValue(build)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { made().ServeHTTP(w, r) })
}

// serve serves at a listener until Close.
func (s *Server) serve(l net.Listener, handler http.Handler) *http.Server {
	few := newFew(l, mostConnections)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // the streams of HTTP/2 would not be counted
	server := &http.Server{
		Handler: few.count(handler), ConnContext: few.context, Protocols: protocols,
		ReadHeaderTimeout: headerPatience, ReadTimeout: readPatience, WriteTimeout: writePatience, IdleTimeout: idlePatience, MaxHeaderBytes: mostHeader,
		ErrorLog: slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug), // of single connections, which disturb nobody
	}
	s.serving = append(s.serving, server)
	s.running.Go(func() { _ = server.Serve(few) }) // ends with Close
	return server
}

// HandOver gives the TCP port up, for a daemon that has taken over. The Unix socket's path is that
// daemon's as soon as it wants it.
func (s *Server) HandOver() {
	if s == nil || s.ending == nil {
		return
	}
	s.ending()
	s.mu.Lock()
	tcp := s.tcp
	s.mu.Unlock()
	if tcp != nil {
		end(tcp)
	}
}

// Close ends it, removes the Unix socket if it is still ours, and waits for what runs.
func (s *Server) Close() {
	if s == nil || s.ending == nil {
		return
	}
	s.ending()
	if s.socket != nil {
		s.socket.remove()
	}
	s.mu.Lock()
	serving := s.serving
	s.mu.Unlock()
	for _, server := range serving {
		end(server)
	}
	s.running.Wait()
}

// end lets requests that are served end, for a while.
func end(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		server.Close()
	}
}
