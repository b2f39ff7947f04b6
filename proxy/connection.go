package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// carry is the whole way of one connection.
func (s *Server) carry(ctx context.Context, client *net.TCPConn, accepted time.Time, router Router) {
	record := Record{Source: client.RemoteAddr().(*net.TCPAddr).AddrPort()}
	defer func() { s.finish(record, accepted) }()

	record.Route, record.Err = router.Route(ctx, client)
	if record.Err != nil {
		record.Err = s.whyUnserved(ctx, client, record.Err)
		reset(client)
		return
	}

	endpoint, upstream, attempts, err := s.dialAny(ctx, record.Route)
	record.Attempts = attempts
	if err != nil {
		record.Err = s.whyUnserved(ctx, client, err)
		reset(client)
		return
	}

	record.Endpoint = endpoint
	if s.Keep != nil {
		release := s.Keep(Live{
			Route: record.Route, Source: record.Source, Endpoint: endpoint, Attempts: attempts,
			Accepted: accepted, Client: client, Upstream: upstream,
		})
		defer release()
	}
	record.Up, record.Down, record.Err = splice(ctx, client, upstream, ended{}, limits{})
}

// finish tells of the end of a connection.
func (s *Server) finish(record Record, accepted time.Time) {
	record.Duration = time.Since(accepted)
	if s.Done != nil {
		s.Done(record)
	}
	if record.Route.Ended != nil {
		record.Route.Ended()
	}
}

var errDrained = Fail(DrainTimeout, hint.Errorf("raise --drain-timeout to let connections finish",
	"the daemon stopped and its drain time was over"))

// whyUnserved prefers the reason behind the reason: a connection that was not
// served because the daemon stopped, or whose client has left, is not the
// registry's or the endpoint's failure.
func (s *Server) whyUnserved(ctx context.Context, client *net.TCPConn, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errDrained):
		return errDrained
	case gone(client):
		return Fail(ClientGone, fmt.Errorf("the client left before it was served (%w)", err))
	}
	return err
}

// dialAny dials the endpoints in turn until one answers.
func (s *Server) dialAny(ctx context.Context, route Route) (Endpoint, *net.TCPConn, int, error) {
	budget := firstPositive(route.DialTimeout, s.DialTimeout, defaultDialTimeout)
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	var failures []error
	for i, endpoint := range route.Endpoints {
		upstream, err := s.dialOne(ctx, route, endpoint.Addr, len(route.Endpoints)-i)
		if err == nil {
			return endpoint, upstream, i + 1, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	err := fmt.Errorf("%d of %d endpoints dialled, none answered: %w",
		len(failures), len(route.Endpoints), errors.Join(firstFew(failures)...))
	return Endpoint{}, nil, len(failures), Fail(DialFailed,
		hint.Wrap(err, "is the backend up, and reachable from this host?"))
}

// dialOne gives an endpoint its fair share of the time that is left, and no more
// than AttemptTimeout, so that one that swallows packets leaves enough for those
// behind it. The last one gets all that is left.
func (s *Server) dialOne(ctx context.Context, route Route, addr netip.AddrPort, left int) (*net.TCPConn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		share := time.Until(deadline) / time.Duration(left)
		attempt, cancel := context.WithTimeout(ctx, min(share, firstPositive(s.AttemptTimeout, defaultAttemptTimeout)))
		defer cancel()
		ctx = attempt
	}
	switch {
	case route.Dial != nil:
		return route.Dial(ctx, addr)
	case s.Dial != nil:
		return s.Dial(ctx, addr)
	}
	return dialTCP(ctx, addr)
}

// dialTCP dials plain TCP, never MPTCP, with the keep-alive defaults of package
// net.
func dialTCP(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func firstPositive(durations ...time.Duration) time.Duration {
	for _, d := range durations {
		if d > 0 {
			return d
		}
	}
	return 0
}

// firstFew keeps an error text readable when there were hundreds of endpoints.
func firstFew(errs []error) []error {
	const few = 5
	if len(errs) <= few {
		return errs
	}
	return append(errs[:few:few], fmt.Errorf("and %d more", len(errs)-few))
}
