package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/selfdial"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

// carry is the whole way of one connection, which is counted. It has a place among the unidentified
// (Server.unidentified) until its client is known.
func (s *Server) carry(ctx context.Context, client *net.TCPConn, accepted time.Time, listener *Listener, leaveUnidentified func(), router Router) {
	source := addrOf(client.RemoteAddr())
	h := s.own.Arrived(&listener.own, source, func() (netip.AddrPort, error) { return origdst.Of(client) })
	h.AwaitParent(ctx, &s.own)
	if err := Fail(Loop, h.CameBack(&s.own)); err != nil {
		leaveUnidentified()
		route := Route{Client: Client{Name: source.Addr().String()}, Port: uint16(listener.own.Addr.Port)}
		s.unserved(&search{server: s, route: &route, client: client, accepted: accepted, by: &listener.own, hop: h}, Record{Route: route, Source: source}, err, func() {})
		return
	}
	route, err := router.Route(ctx, client)
	leaveUnidentified()
	if h != nil {
		h.Way = (*way)(&route)
	}
	search := &search{server: s, route: &route, client: client, accepted: accepted, by: &listener.own, hop: h}
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
	s.serveAdmitted(search, leave)
}

// unserved resets a connection that gets no endpoint.
func (s *Server) unserved(search *search, record Record, err error, leave func()) {
	record.Err = s.whyUnserved(s.ctx, search.client, err)
	s.tellLoop(search.hop, record.Err)
	socket.Reset(search.client)
	leave()
	s.gone(&record, search.accepted)
}

// tellLoop tells those of which a connection is a part why it gets no endpoint, if that is a loop.
func (s *Server) tellLoop(h *selfdial.Hop, err error) {
	if h != nil && isLoop(err) {
		h.Tell(&s.own, err)
	}
}

// reason is why a connection to an endpoint has ended by err: that it came back, if that is
// why its endpoint has reset it. addrs are its two addresses, which are asked for only if a
// connection was reset that is not noted.
func (s *Server) reason(h *selfdial.Hop, err error, addrs func() (local, remote netip.AddrPort)) error {
	if ReasonOf(err) != EndpointGone {
		return err
	}
	if looped := s.own.WhyLooped(h, addrs); looped != nil {
		return looped
	}
	return err
}

// serveAdmitted serves a connection that was admitted; leave gives its places back.
func (s *Server) serveAdmitted(search *search, leave func()) {
	if err := search.establish(s.ctx); err != nil {
		s.unserved(search, search.record(), err, leave)
		return
	}
	record := search.record()
	search.route.Options.apply(search.client)
	if err := search.sendEarly(s.ctx); err != nil {
		search.hop.Left()
		socket.Reset(search.conn)
		err = search.reason(err)
		search.found.closed(false, true)
		s.unserved(search, record, err, leave)
		return
	}
	s.toLoop(search, &record, leave)
}

// toLoop has a loop carry a connection to its end.
func (s *Server) toLoop(search *search, record *Record, leave func()) {
	r := &relay{
		route: search.route, verdict: search.found.verdict(), source: record.Source,
		held: int64(record.Held), attempts: int32(record.Attempts),
		more: &more{hop: search.hop, leave: leave, passed: passed{up: int64(search.sent)}},
	}
	r.up.finished, r.down.finished = search.over.up, search.over.down
	if s.relay(r, search.client, search.conn, search.accepted) {
		return
	}
	search.hop.Left()
	search.found.closed(false, false)
	socket.Reset(search.conn)
	s.unserved(search, *record, errNoDescriptors, leave)
}

// relay has a loop carry r between two connections of package net. It reports false when no
// descriptor is left for that.
func (s *Server) relay(r *relay, client, upstream *net.TCPConn, accepted time.Time) bool {
	if len(s.loops) == 0 { // there was none for a loop
		return false
	}
	c, u, ok := s.takeBoth(client, upstream)
	if !ok {
		return false
	}
	l := s.loops[int(s.nextLoop.Add(1))%len(s.loops)]
	r.loop, r.waitingAt = l, -1
	r.client, r.upstream = side{fd: int32(c)}, side{fd: int32(u)}
	r.accepted = int64(accepted.Sub(l.began))
	l.post(func() { l.adopt(r) }) // it runs for as long as there are connections
	return true
}

// fallBack goes on with a connection of a loop by way of package net, in a goroutine.
func (s *Server) fallBack(fd int, search *search, source netip.AddrPort, next func(*search)) {
	conn, err := connOf(fd)
	if err != nil {
		if search.leaveUnidentified != nil {
			search.leaveUnidentified()
		}
		search.leaveEntered()
		s.gone(&Record{Route: *search.route, Source: source, Attempts: search.attempts, Err: err}, search.accepted)
		return
	}
	search.client = conn
	go next(search)
}

// connOf makes a connection of package net of a descriptor, which is closed. On failure
// the connection is reset: no descriptor is left, or the client has left.
func connOf(fd int) (*net.TCPConn, error) {
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		socket.SetLinger(fd)
		return nil, errNoDescriptors
	}
	if conn.RemoteAddr() == nil { // getpeername(2) fails once it is reset
		socket.Reset(conn.(*net.TCPConn))
		return nil, Fail(ClientGone, errors.New("the client left before it was served"))
	}
	return conn.(*net.TCPConn), nil
}

// finish tells of the end of a connection.
func (s *Server) finish(record *Record, accepted time.Time) {
	record.Ended = time.Now()
	record.Duration = record.Ended.Sub(accepted)
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
	case errors.Is(err, errClientLeft), socket.Gone(client):
		return Fail(ClientGone, fmt.Errorf("the client left before it was served (%w)", err))
	}
	return err
}

// tryEnter passes the server's limit, and then those of a route, as far as it can at once,
// and says how many that are.
func (s *Server) tryEnter(route *Route) (entered int, all bool) {
	if share := s.shareOf(route); share != nil {
		if !share.TryEnter() {
			return 0, false
		}
		entered = 1
	}
	for _, share := range route.Limits {
		if !share.TryEnter() {
			return entered, false
		}
		entered++
	}
	return entered, true
}

// hopeless is why a connection by route that the server's limit has no place for would not
// get one; nil if it may wait.
func (s *Server) hopeless(route *Route) error {
	if share := s.shareOf(route); share != nil {
		return Fail(OverLimit, share.Hopeless())
	}
	return nil
}

// overLimit is err as a *Failure if it says that a limit has no place.
func overLimit(err error) error {
	var over *limit.Over
	if errors.As(err, &over) {
		return Fail(OverLimit, over.Err)
	}
	return err
}

// leave gives all of them back.
func (s *Server) leave(route *Route) {
	for _, share := range route.Limits {
		share.Leave()
	}
	if share := s.shareOf(route); share != nil {
		share.Leave()
	}
}

// limits is how many that are.
func (s *Server) limits(route *Route) int {
	if s.Limit == nil {
		return len(route.Limits)
	}
	return len(route.Limits) + 1
}

// shareOf is the share of the server's Limit that a connection takes its place of; nil if
// there is no Limit.
func (s *Server) shareOf(route *Route) *limit.Share {
	switch {
	case s.Limit == nil:
		return nil
	case route.Share != nil && route.Share.Limit() == s.Limit:
		return route.Share
	}
	return s.Limit.Alone()
}

// enterUnidentified takes a place for a connection whose client is not known yet, which leave gives
// back.
func (s *Server) enterUnidentified(listener *Listener, source netip.AddrPort) (leave func(), err error) {
	if s.Limit == nil || s.Unknown == nil {
		return func() {}, nil
	}
	from := limit.Origin{Source: ClientAddr(source.Addr())}
	if listener.own.Addr.IP.IsLoopback() || from.Source.IsLoopback() {
		from = limit.Origin{Listener: listener}
	}
	leave, ok := s.unidentified.Enter(s.Limit, s.Unknown, from)
	if !ok {
		return nil, errManyUnknown
	}
	return leave, nil
}
