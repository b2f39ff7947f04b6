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

// carry is the whole way of one connection, which is counted. It has a place as a stranger
// (Server.strangers) until its client is known.
func (s *Server) carry(ctx context.Context, client *net.TCPConn, accepted time.Time, listener *Listener, leaveStranger func(), router Router) {
	source := addrOf(client.RemoteAddr())
	h := s.arrived(listener, source, func() (netip.AddrPort, error) { return OriginalDst(client) })
	h.awaitParent(ctx, s)
	if err := h.cameBack(s); err != nil {
		leaveStranger()
		route := Route{Client: Client{Name: source.Addr().String()}, Port: uint16(listener.addr.Port)}
		s.unserved(&search{server: s, route: &route, client: client, accepted: accepted, by: listener, hop: h}, Record{Route: route, Source: source}, err, func() {})
		return
	}
	route, err := router.Route(ctx, client)
	leaveStranger()
	if h != nil {
		h.route = &route
	}
	search := &search{server: s, route: &route, client: client, accepted: accepted, by: listener, hop: h}
	if err != nil {
		s.unserved(search, Record{Route: route, Source: source}, err, func() {})
		return
	}
	s.serve(search)
}

// serve admits a connection whose route is known, and goes on with it.
func (s *Server) serve(search *search) {
	leave, err := search.admit(s.ctx)
	if err != nil {
		s.unserved(search, search.record(), err, leave)
		return
	}
	s.goOn(search, leave)
}

// unserved resets a connection that gets no endpoint.
func (s *Server) unserved(search *search, record Record, err error, leave func()) {
	record.Err = s.whyUnserved(s.ctx, search.client, err)
	search.hop.unserved(s, record.Err)
	reset(search.client)
	leave()
	s.gone(&record, search.accepted)
}

// goOn serves a connection that was admitted; leave gives its places back.
func (s *Server) goOn(search *search, leave func()) {
	if err := search.establish(s.ctx); err != nil {
		s.unserved(search, search.record(), err, leave)
		return
	}
	record := search.record()
	search.route.Options.apply(search.client)
	if err := search.sendEarly(s.ctx); err != nil {
		search.hop.left()
		reset(search.conn)
		err = search.reason(err)
		search.found.closed(false, true)
		s.unserved(search, record, err, leave)
		return
	}
	if len(s.loops) == 0 || !s.handOver(search, &record, leave) {
		s.splice(search, record, leave)
	}
}

// splice carries a connection to its end.
func (s *Server) splice(search *search, record Record, leave func()) {
	ctx, route := s.ctx, search.route
	defer func() { s.gone(&record, search.accepted) }()
	if share := s.shareOf(route); share != nil {
		var forget func()
		ctx, forget = s.reclaimer.keep(ctx, share, search.client, search.conn)
		defer forget()
	}
	defer leave()
	if s.Keeper != nil {
		number := s.Keeper.Keep(live{Live{
			Route: *route, Source: record.Source, Endpoint: record.Endpoint, Attempts: record.Attempts,
			Accepted: search.accepted, Client: search.client, Upstream: search.conn,
		}})
		defer s.Keeper.Release(number)
	}
	if route.Opened != nil {
		var cut context.CancelCauseFunc
		ctx, cut = context.WithCancelCause(ctx)
		closed := route.Opened(search.found.verdict(), cut)
		defer closed()
		defer cut(nil)
	}
	defer search.hop.left()
	record.Up, record.Down, record.Err = splice(ctx, search.client, search.conn, search.over, route.Options.limits(search.accepted))
	record.Up += int64(search.sent)
	search.found.closed(record.Down > 0, ReasonOf(record.Err) == EndpointGone)
	record.Err = search.reason(record.Err)
}

// handOver has a loop carry a connection to its end. It reports false when no descriptor
// is left but for those that the connection has.
func (s *Server) handOver(search *search, record *Record, leave func()) bool {
	l := s.loops[int(s.nextLoop.Add(1))%len(s.loops)]
	client, upstream, ok := takeBoth(search.client, search.conn)
	if !ok {
		return false
	}
	r := &relay{
		loop: l, route: search.route, verdict: search.found.verdict(), source: record.Source,
		held: int64(record.Held), attempts: int32(record.Attempts), waitingAt: -1,
		client: side{fd: int32(client)}, upstream: side{fd: int32(upstream)},
		more: &more{hop: search.hop, leave: leave, sent: int64(search.sent)},
	}
	r.up.finished, r.down.finished = search.over.up, search.over.down
	r.accepted = int64(search.accepted.Sub(l.began))
	return l.post(func() { l.takeIn(r) }) // it runs for as long as there are connections
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
	errManyUnknown = Fail(OverLimit, hint.Errorf("raise --max-connections and the limit of open files, or look who opens so many",
		"too many connections from there wait until it is known whose they are"))
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
