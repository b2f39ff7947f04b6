package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/proxy/internal/replay"
	"github.com/ambassadord/ambassadord/proxy/internal/selfdial"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

const (
	defaultDialTimeout    = 10 * time.Second
	defaultAttemptTimeout = 1500 * time.Millisecond
	// firstPause and longestPause bound the time between two rounds in which nobody
	// answered.
	firstPause, longestPause = 20 * time.Millisecond, 250 * time.Millisecond
	// noticeAfter is how long a search may take before somebody looks whether the
	// client is still there. Most are over long before.
	noticeAfter = 50 * time.Millisecond
)

// search looks for an endpoint that answers, for one connection.
type search struct {
	server   *Server
	route    *Route
	client   *net.TCPConn
	accepted time.Time
	by       *selfdial.Listener // that accepted it
	hop      *selfdial.Hop      // nil unless it may be part of a loop
	since    time.Time          // when the search began; zero means now

	leaveUnidentified func() // gives up the place of one whose client is not known; nil if it has none

	entered  int // limits that have been passed
	attempts int
	inRound  bool    // there may be endpoints left to try in this round
	failures []error // of this round

	found Attempt      // the one that answered
	conn  *net.TCPConn // to it
	early []byte       // the client's, which has been taken from it and is to be sent first
	over  ended        // which streams have been passed on to their end
	sent  int          // bytes of the client's that it has been sent
}

// record is what there is to say of the connection so far.
func (s *search) record() Record {
	return Record{
		Route: *s.route, Source: addrOf(s.client.RemoteAddr()), Endpoint: s.found.Endpoint,
		Attempts: s.attempts, Held: time.Since(s.accepted),
	}
}

// holdUntil is the time until which the connection is held although nobody answers.
func (s *search) holdUntil() time.Time {
	from := s.accepted
	if s.route.Known.After(from) {
		from = s.route.Known
	}
	return from.Add(s.route.Options.Wait)
}

// admit passes the limits; leave gives the places back.
func (s *search) admit(ctx context.Context) (leave func(), err error) {
	limits := s.limits()
	leave = s.leaveEntered
	for s.entered < len(limits) && limits[s.entered].TryEnter() {
		s.entered++
	}
	if s.entered == len(limits) { // nearly always
		return leave, nil
	}
	ctx, cancel := context.WithDeadline(ctx, s.holdUntil())
	defer cancel()
	ctx, stop := s.watchClient(ctx)
	defer stop()
	for ; s.entered < len(limits); s.entered++ {
		if err := limits[s.entered].Enter(ctx); err != nil {
			return leave, overLimit(err)
		}
	}
	return leave, nil
}

// limits are those to pass, in their order.
func (s *search) limits() []*limit.Share {
	share := s.server.shareOf(s.route)
	if share == nil {
		return s.route.Limits
	}
	return append([]*limit.Share{share}, s.route.Limits...)
}

// leaveEntered gives back what has been passed.
func (s *search) leaveEntered() {
	for _, l := range s.limits()[:s.entered] {
		l.Leave()
	}
}

// watchClient ends the context that it returns once the client is seen to have left,
// with errClientLeft. stop ends the watch and waits for it: nobody else may read
// from the client meanwhile.
func (s *search) watchClient(ctx context.Context) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	timer := time.AfterFunc(noticeAfter, func() {
		defer close(done)
		if socket.WaitGone(watched, s.client) {
			cancel(errClientLeft)
		}
	})
	return watched, func() {
		cancel(nil)
		if !timer.Stop() {
			<-done
		}
	}
}

// establish finds an endpoint and, with Options.Replay, stays with it until its first
// byte, or goes on to the next.
func (s *search) establish(ctx context.Context) error {
	if s.since.IsZero() {
		s.since = time.Now()
	}
	deadline := s.since.Add(firstPositive(s.route.Options.Timeout, defaultDialTimeout))
	for {
		if err := s.find(ctx, deadline); err != nil || !s.route.Options.Replay {
			return err
		}
		err := s.firstByte(ctx)
		if err == nil {
			return nil
		}
		s.hop.Left()
		socket.Reset(s.conn)
		left := errors.Is(err, errClientLeft)
		s.found.closed(false, !left)
		if left {
			return err
		}
		s.failures = append(s.failures, fmt.Errorf("%s: %w", s.found.Addr, err))
	}
}

// firstByte sends the endpoint that was found what the client sends, without taking it
// from the client's socket, until the endpoint has sent its first byte; then a relay
// goes on from here. An error says that the connection broke or ended before that, so
// that all of it may be tried again elsewhere, or that the client has left.
func (s *search) firstByte(ctx context.Context) error {
	o := &replay.Opening{Client: s.client, Upstream: s.conn}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		o.EndSending()
		o.EndAwaiting()
	})
	answered := make(chan error, 1)
	s.server.connections.Go(func() { answered <- o.AwaitFirstByte() })
	buffer := buffers.Get().(*[bufferSize]byte)
	o.Send(buffer[:])
	buffers.Put(buffer)
	err := <-answered
	if !stop() {
		<-interrupted
	}
	o.Settle()
	switch {
	case ctx.Err() != nil, err == nil, o.TooMuch:
		return s.takeSent(o)
	case o.Left:
		return fmt.Errorf("%w before the endpoint's first byte", errClientLeft)
	}
	return err
}

// takeSent takes from the client what the endpoint has been sent.
func (s *search) takeSent(o *replay.Opening) error {
	s.over.up, s.sent = o.Finished, o.Sent
	if _, err := io.CopyN(io.Discard, s.client, int64(o.Sent)); err != nil { // it has been seen there
		return fmt.Errorf("%w: %w", errClientLeft, err)
	}
	return nil
}

// sendEarly sends the endpoint what was taken from the client before. An error says that
// it has broken the connection, or that ctx has ended.
func (s *search) sendEarly(ctx context.Context) error {
	if len(s.early) == 0 {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetWriteDeadline(socket.LongAgo) }) // nearly always there is room
	defer stop()
	n, err := s.conn.Write(s.early)
	s.sent += n
	if err != nil {
		return Fail(EndpointGone, broke("the endpoint", plain(err)))
	}
	return nil
}

// plain strips the addresses of an operation error: the log line has them.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// find dials until an endpoint answers, in rounds in which each is tried once, for as
// long as the connection is held.
func (s *search) find(ctx context.Context, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	ctx, stop := s.watchClient(ctx)
	defer stop()
	pauses := backoff.Backoff{Base: firstPause, Max: longestPause}
	for {
		pause := pauses.Next()
		var err error
		if !s.inRound {
			s.failures = s.failures[:0]
			err = s.route.Endpoints.Refresh(ctx)
			s.inRound = err == nil
		}
		if err == nil {
			if err = s.round(ctx); err == nil {
				return nil
			}
			s.inRound = false
			if s.reresolve(ctx, err) {
				continue
			}
		}
		left := time.Until(s.holdUntil())
		if left <= 0 || ctx.Err() != nil || ReasonOf(err) == Denied || isLoop(err) { // which waiting does not change
			return s.failure(ctx, err)
		}
		changed, cancel := context.WithTimeout(ctx, min(pause, left))
		s.route.Endpoints.Changed(changed)
		cancel()
	}
}

// failure is err, unless the search was ended from outside.
func (s *search) failure(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errClientLeft) {
		return fmt.Errorf("%w; before that: %w", errClientLeft, err)
	}
	return err
}

// round tries each endpoint once that has not been tried in it.
func (s *search) round(ctx context.Context) error {
	for ctx.Err() == nil {
		attempt, ok := s.route.Endpoints.Next()
		if !ok {
			break
		}
		if s.route.Options.Hedge > 0 && attempt.Left > 1 {
			if s.race(ctx, attempt) {
				return nil
			}
			continue
		}
		s.attempts++
		if s.settle(ctx, s.dial(ctx, attempt)) {
			return nil
		}
	}
	if len(s.failures) == 0 {
		if err := s.passedOver(); err != nil && ctx.Err() == nil {
			return err
		}
		s.failures = append(s.failures, context.Cause(ctx))
	}
	if !slices.ContainsFunc(s.failures, func(err error) bool { return !isLoop(err) }) {
		return s.failures[0]
	}
	return nobodyAnswered(s.route, s.failures)
}

// reresolve has the Chooser ask for the target's endpoints anew, once all have failed with err, and
// reports whether there are others by now. These are dialled at once, also where a connection is
// not held.
func (s *search) reresolve(ctx context.Context, err error) bool {
	d, ok := s.route.Endpoints.(Reresolver)
	return ok && ctx.Err() == nil && ReasonOf(err) == DialFailed && !slices.ContainsFunc(s.failures, OwnFault) && d.Reresolve(ctx)
}

// passedOver is why there was nobody to dial in a round: the Chooser has endpoints, and
// passes them over.
func (s *search) passedOver() error {
	if p, ok := s.route.Endpoints.(Passer); ok {
		return p.PassedOver()
	}
	return nil
}

// settle takes the outcome of an attempt, and reports whether it is the one.
func (s *search) settle(ctx context.Context, o attemptOutcome) bool {
	defer o.outgoing.Over()
	a, err := o.attempt, o.err
	switch {
	case err == nil:
		a.opened()
		s.hop = s.server.own.Departed(&o.outgoing, s.by, s.hop, (*way)(s.route), addrOf(o.conn.LocalAddr()))
		s.found, s.conn = a, o.conn
		return true
	case errors.Is(context.Cause(ctx), errClientLeft), errors.Is(context.Cause(ctx), errDrained), errors.Is(err, errOvertaken), isLoop(err):
		a.cancelled() // it was not the endpoint that failed
	default:
		a.failed(err)
	}
	s.failures = append(s.failures, err)
	return false
}

// attemptOutcome is what became of an attempt.
type attemptOutcome struct {
	attempt  Attempt
	outgoing selfdial.Outgoing
	conn     *net.TCPConn
	err      error
}

// reason is Server.reason of the connection.
func (s *search) reason(err error) error {
	return s.server.reason(s.hop, err, func() (local, remote netip.AddrPort) { return addrOf(s.conn.LocalAddr()), s.found.Addr })
}

// race dials an endpoint, and after Options.Hedge another one beside it; the first to
// answer wins. It reports whether one did.
func (s *search) race(ctx context.Context, first Attempt) bool {
	outcomes := make(chan attemptOutcome, 2)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errOvertaken)
	// The second one takes another descriptor, and so another place.
	share, extra := s.server.shareOf(s.route), false
	running := 0
	start := func(a Attempt) {
		running++
		s.attempts++
		s.server.connections.Go(func() { outcomes <- s.dial(ctx, a) })
	}
	leave := func() {
		if extra && share != nil {
			share.Leave()
		}
	}
	start(first)
	hedge := time.NewTimer(s.route.Options.Hedge)
	defer hedge.Stop()
	for running > 0 {
		select {
		case <-hedge.C:
			if share != nil && !share.TryMore() {
				continue
			}
			extra = true
			if second, ok := s.route.Endpoints.Next(); ok {
				start(second)
			}
		case o := <-outcomes:
			running--
			if !s.settle(ctx, o) {
				continue
			}
			if running > 0 { // the other one has lost, whatever becomes of it
				s.server.connections.Go(func() { discard(<-outcomes); leave() })
			} else {
				leave()
			}
			return true
		}
	}
	leave()
	return false
}

// discard gives up an attempt that lost.
func discard(o attemptOutcome) {
	if o.conn != nil {
		socket.Reset(o.conn)
	}
	o.outgoing.Over()
	o.attempt.cancelled()
}

var errOvertaken = errors.New("another endpoint answered first")

func firstPositive(durations ...time.Duration) time.Duration {
	for _, d := range durations {
		if d > 0 {
			return d
		}
	}
	return 0
}
