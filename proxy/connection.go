package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// carry is the whole way of one connection.
func (s *Server) carry(ctx context.Context, client *net.TCPConn, accepted time.Time, router Router) {
	record := Record{Source: addrOf(client.RemoteAddr())}
	defer func() { s.finish(&record, accepted) }()

	record.Route, record.Err = router.Route(ctx, client)
	route := &record.Route
	if record.Err != nil {
		record.Err = s.whyUnserved(ctx, client, record.Err)
		reset(client)
		return
	}

	search := &search{server: s, route: route, client: client, accepted: accepted}
	leave, err := search.admit(ctx)
	defer leave()
	if err == nil {
		err = search.establish(ctx)
	}
	record.Attempts, record.Held = search.attempts, time.Since(accepted)
	if err != nil {
		record.Err = s.whyUnserved(ctx, client, err)
		reset(client)
		return
	}

	record.Endpoint = search.found.Endpoint
	upstream := search.conn
	if s.Keep != nil {
		release := s.Keep(Live{
			Route: record.Route, Source: record.Source, Endpoint: record.Endpoint, Attempts: record.Attempts,
			Accepted: accepted, Client: client, Upstream: upstream,
		})
		defer release()
	}
	if route.Opened != nil {
		var cut context.CancelCauseFunc
		ctx, cut = context.WithCancelCause(ctx)
		closed := route.Opened(record.Endpoint, cut)
		defer closed()
		defer cut(nil)
	}
	route.Options.apply(client)
	record.Up, record.Down, record.Err = splice(ctx, client, upstream, search.over, route.Options.limits(accepted))
	record.Up += int64(search.sent)
	search.found.closed(record.Down > 0, ReasonOf(record.Err) == EndpointGone)
}

// finish tells of the end of a connection.
func (s *Server) finish(record *Record, accepted time.Time) {
	record.Duration = time.Since(accepted)
	if s.Done != nil {
		s.Done(*record)
	}
	if record.Route.Ended != nil {
		record.Route.Ended()
	}
}

var (
	errDrained = Fail(DrainTimeout, hint.Errorf("raise --drain-timeout to let connections finish",
		"the daemon stopped and its drain time was over"))
	errFull = Fail(OverLimit, hint.Errorf("raise --max-connections and the limit of open files, or look who holds so many",
		"the daemon has all the connections it may have, and as many wait as may"))
	errNoDescriptors = Fail(OverLimit, hint.Errorf("raise the limit of open files (ulimit -n, LimitNOFILE=), or lower --max-connections",
		"no descriptor was left to carry the connection with"))
	errClientLeft = errors.New("the client left")
)

// whyUnserved prefers the reason behind the reason: a connection that was not
// served because the daemon stopped, or whose client has left, is not the
// registry's or the endpoint's failure.
func (s *Server) whyUnserved(ctx context.Context, client *net.TCPConn, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errDrained):
		return errDrained
	case errors.Is(err, errClientLeft), gone(client):
		return Fail(ClientGone, fmt.Errorf("the client left before it was served (%w)", err))
	}
	return err
}
