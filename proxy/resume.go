package proxy

import (
	"fmt"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
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
