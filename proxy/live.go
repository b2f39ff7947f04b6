package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

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

// Keeper is shown connections whose both ends are up. It must not read from or write to
// them, nor wait.
type Keeper interface {
	// Keep shows a connection, and gives it a number, which is not 0.
	Keep(conn Connection) (number uint64)
	// Release says that the connection of that number ends.
	Release(number uint64)
}

// Connection is a connection whose both ends are up.
type Connection interface {
	// Live is what there is to say of it. Its ends may be nil.
	Live() Live
	// Duplicate makes a descriptor of either end; ok is false when they have been
	// closed, or no descriptor is left.
	Duplicate() (client, upstream int, ok bool)
}

// Carried is a connection as it is now.
type Carried struct {
	Route    *Route         // which is not to be changed
	Source   netip.AddrPort // the client's address
	Endpoint Endpoint
	Attempts int // endpoints dialled
	Accepted time.Time
	Held     time.Duration // from accept until the endpoint had answered
	Up, Down int64         // bytes so far, from client to endpoint and back
}

// carriedAtOnce is how many connections a loop looks at in one go: it carries the others
// meanwhile, and that takes microseconds.
const carriedAtOnce = 256

// Carried returns the connections in loops whose both ends are up, in no order. One that comes or goes
// meanwhile may be among them or not. It holds nothing that the connections need: each loop looks
// at its own, a few at a time, between the events that it serves.
func (s *Server) Carried() []Carried {
	s.init()
	var all []Carried
	for _, l := range s.loops {
		for at, more := 0, true; more; at += carriedAtOnce {
			more = false
			l.call(func() { all, more = l.carried(all, at) })
		}
	}
	return all
}

// Cut resets the connections in loops whose both ends are up and that match, for cause, which is a *Failure, and
// returns how many. match is called in the loops, so it is to be quick, and must not keep what it is given.
func (s *Server) Cut(match func(*Carried) bool, cause error) (cut int) {
	s.init()
	for _, l := range s.loops {
		for at, more := 0, true; more; at += carriedAtOnce {
			more = false
			l.call(func() {
				var n int
				n, more = l.cutMatching(at, match, cause)
				cut += n
			})
		}
	}
	return cut
}

// Moved is what a connection in a loop has moved since Server.Moved told of it before.
type Moved struct {
	Route    *Route         // which is not to be changed
	Endpoint netip.AddrPort // that answered
	Up, Down int64          // bytes, from client to endpoint and back
	First    bool           // nobody has been told of the connection before; what follows is set then
	Attempts int            // endpoints dialled
	Held     time.Duration  // from accept until the endpoint had answered
}

// Told is how much of a connection Moved has told of.
type Told struct {
	Connection bool // that there is one
	Up, Down   int64
}

// Moved tells of the connections in loops whose both ends are up, a few at a time: all that a
// connection moves is told of once, here or, as what Record.Told lacks, at its end. So whoever adds
// both up has all bytes exactly, whatever ends meanwhile. It is for one caller, and holds up the
// connections no more than Carried does. some may not keep what it is given.
func (s *Server) Moved(some func([]Moved)) {
	s.init()
	room := make([]Moved, 0, carriedAtOnce)
	for _, l := range s.loops {
		for at, more := 0, true; more; at += carriedAtOnce {
			room, more = room[:0], false
			l.call(func() { room, more = l.moved(room, at) })
			some(room)
		}
	}
}

// Resume carries on a connection that another process carried until it died, and Drain
// waits for it. Nobody else may use its two ends any more. The bytes which the dead process had read and
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
	socket.Reset(live.Client)
	socket.Reset(live.Upstream)
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
	c, err := socket.CountOf(live.Client)
	if err != nil {
		return progress{}, fmt.Errorf("the client's connection: %w", err)
	}
	u, err := socket.CountOf(live.Upstream)
	if err != nil {
		return progress{}, fmt.Errorf("the endpoint's connection: %w", err)
	}
	// The kernel counts the SYN of a connection that we opened among the bytes that
	// were acknowledged; where it would not, no connection would look at rest.
	u.Written -= 1 + uint64(len(live.Route.Preface))
	c.Read -= uint64(live.Route.Read)
	if c.Read != u.Written || u.Read != c.Written {
		return progress{}, fmt.Errorf("the daemon died with %d bytes from the client and %d from the endpoint in its hands",
			c.Read-u.Written, u.Read-c.Written)
	}
	return progress{
		passed: passed{up: int64(c.Read), down: int64(u.Read)},
		over:   ended{up: u.Finished, down: c.Finished},
	}, nil
}
