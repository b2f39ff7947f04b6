package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
	"github.com/ambassadord/ambassadord/proxy/internal/selfdial"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

// firstDial is the search of a relay for its endpoint: the first attempt, in the loop, where
// all is known that is needed for it. A connection that needs more than that goes to carry
// or to a search, in a goroutine of its own.
type firstDial struct {
	by       *selfdial.Listener // that accepted the connection
	chooser  Chooser
	attempt  Attempt
	early    []byte             // the client's, taken from its socket and not sent yet
	began    int64              // as loop.now
	deadline int64              // likewise
	stop     context.CancelFunc // ends watching for others; nil while nobody does
}

// admit begins with a connection that was accepted and is counted.
func (l *loop) admit(fd int, source netip.AddrPort, d *acceptor) {
	s := l.server
	router, ok := d.router.(NonBlockingRouter)
	if !ok || s.Dial != nil {
		l.toGoroutine(fd, source, d)
		return
	}
	route, chooser := router.RouteNow(Accepted{FD: fd, Source: source})
	if route == nil || !route.plain() || !chooser.TryRefresh() {
		l.toGoroutine(fd, source, d)
		return
	}
	h := s.own.Arrived(&d.listener.own, source, func() (netip.AddrPort, error) { return origdst.OfSocketAt(fd, source.Addr(), d.listener.own.Local) })
	if h != nil {
		h.Way = (*way)(route)
		if err := Fail(Loop, h.CameBack(&s.own)); err != nil {
			s.tellLoop(h, err)
			l.refuseOf(fd, source, route, err)
			return
		}
	}
	entered, all := s.tryEnter(route)
	if !all && entered == 0 {
		if why := s.hopeless(route); why != nil { // or each of a storm would have a goroutine first
			l.refuseOf(fd, source, route, why)
			return
		}
	}
	if !all {
		s.fallBack(fd, &search{server: s, route: route.with(chooser), accepted: l.at(l.now), entered: entered, by: &d.listener.own, hop: h}, source, s.serve)
		return
	}
	r := &relay{loop: l, waitingAt: -1, route: route, source: source, accepted: l.now}
	if h != nil {
		r.extra().hop = h
	}
	r.client, r.upstream, r.first = side{fd: int32(fd)}, side{fd: -1}, l.newFirstDial()
	r.first.by, r.first.chooser = &d.listener.own, chooser
	l.add(r)
	early := r.takeEarly()
	if err := l.await(r, &r.client); err != nil { // out of memory or watches (epoll_ctl(2))
		r.abandon(Fail(OverLimit, fmt.Errorf("wait for the connection: %w", err)))
		return
	}
	r.dial(early)
}

// takeEarly takes what the client has sent by now, in the loop's buffer. An event tells of bytes
// that cannot be taken like that.
func (r *relay) takeEarly() []byte {
	if socket.AtMark(int(r.client.fd)) {
		return nil
	}
	b := r.loop.buffer[:]
	n, _ := socket.Receive(int(r.client.fd), b)
	r.up.bulky = n == len(b)
	return b[:n]
}

// plain reports whether nothing of the route needs more than a plain connection.
func (r *Route) plain() bool {
	o := &r.Options
	return r.Dial == nil && len(r.Preface) == 0 && r.Read == 0 && o.Hedge == 0 && !o.Replay && !o.prepares()
}

// with is a copy of the route for one connection.
func (r *Route) with(chooser Chooser) *Route {
	own := *r
	own.Endpoints = chooser
	return &own
}

// toGoroutine gives a connection to carry, in a goroutine of its own.
func (l *loop) toGoroutine(fd int, source netip.AddrPort, d *acceptor) {
	s, accepted := l.server, l.at(l.now)
	leave, err := s.enterUnidentified(d.listener, source)
	if err != nil {
		l.refuseOf(fd, source, &Route{}, err)
		return
	}
	none := &search{server: s, route: &Route{}, accepted: accepted, leaveUnidentified: leave}
	s.fallBack(fd, none, source, func(found *search) { s.carry(s.ctx, found.client, accepted, d.listener, leave, d.router) })
}

func (l *loop) newFirstDial() *firstDial {
	if n := len(l.firstDials); n > 0 {
		p := l.firstDials[n-1]
		l.firstDials = l.firstDials[:n-1]
		return p
	}
	return &firstDial{}
}

// decided ends the search.
func (r *relay) decided() {
	l, p := r.loop, r.first
	l.waitNoMore(r)
	if p.stop != nil {
		p.stop()
	}
	*p = firstDial{}
	l.firstDials = append(l.firstDials, p)
	r.first = nil
}

// dial begins the first attempt; early is what the endpoint is to be sent first.
func (r *relay) dial(early []byte) {
	p := r.first
	p.began = r.loop.now // also where nobody is dialled, for the search that goes on from here
	attempt, ok := p.chooser.Next()
	if !ok {
		p.early = bytes.Clone(early)
		r.toGoroutine(nil)
		return
	}
	p.attempt = attempt
	if attempt.Addr.Addr().Zone() != "" { // package net knows how zones are numbered
		attempt.cancelled()
		p.early = bytes.Clone(early)
		r.toGoroutine(nil)
		return
	}
	if err := Fail(Loop, r.loop.server.own.LeadsBack(p.by, r.hop(), (*way)(r.route), attempt.Addr)); err != nil {
		attempt.cancelled()
		p.early = bytes.Clone(early)
		r.toGoroutine(err)
		return
	}
	r.attempts++
	timeout := firstPositive(r.route.Options.Timeout, defaultDialTimeout)
	if attempt.Left > 1 { // as in search.dial
		timeout = min(timeout/time.Duration(attempt.Left), r.patience())
	}
	p.deadline = p.began + int64(timeout)
	isUp, err := r.connect(attempt.Addr, early)
	switch {
	case err != nil && isUp: // what was sent cannot be sent to another one
		r.abandon(Fail(OverLimit, err))
	case err != nil:
		r.attemptFailed(err)
	case isUp:
		r.established()
	default:
		r.loop.wait(r)
	}
}

func (r *relay) patience() time.Duration {
	return firstPositive(r.route.Options.AttemptTimeout, defaultAttemptTimeout)
}

// connect begins to connect to addr, and reports whether that is done: one on this machine
// has answered by then. It is sent what the client has sent so far.
func (r *relay) connect(addr netip.AddrPort, early []byte) (isUp bool, err error) {
	unsent := early
	defer func() { r.first.early = bytes.Clone(unsent) }()
	family := unix.AF_INET
	if !addr.Addr().Unmap().Is4() {
		family = unix.AF_INET6
	}
	fd, err := socket.New(family)
	if err != nil {
		return false, dialError(addr, "socket", err)
	}
	r.upstream.fd = int32(fd)
	r.upstream.flags |= delaying
	socket.KeepUrgentInLine(fd)
	if len(early) > 0 {
		// The acknowledgement of the endpoint's SYN goes with the client's bytes, as soon as it
		// has come (tcp(7), TCP_QUICKACK; tcp_rcv_synsent_state_process): one segment less,
		// and the endpoint is woken once. One that speaks first must not wait for that.
		socket.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
	}
	if t := r.route.Options.UserTimeout; t > 0 {
		socket.SetInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int32(socket.Milliseconds(t)))
	}
	s := r.loop.server
	outgoing := s.own.Departs(r.first.by, r.hop(), addr, false, r.route.Options.Transparent)
	if err := socket.Connect(fd, addr); err != nil && err != unix.EINPROGRESS { //nolint:errorlint // an errno
		return false, dialError(addr, "connect", err)
	}
	if may := r.loop.ports.MayBe(addr.Port(), r.loop.now); may || outgoing.NeedsSource() {
		local, err := socket.LocalAddr(fd)
		switch {
		case err != nil:
		case may && selfconnect.Is(local, addr):
			socket.SetLinger(fd) // or its port would stay taken
			return false, dialError(addr, "connect", unix.ECONNREFUSED)
		case outgoing.NeedsSource():
			if h := s.own.Departed(&outgoing, r.first.by, r.hop(), (*way)(r.route), local); h != nil {
				r.extra().hop = h
			}
		}
	}
	if len(early) > 0 {
		n, err := socket.Send(fd, early, 0)
		switch err {
		case nil:
			isUp = true
			r.up.bytes, unsent = int64(n), early[n:]
		case unix.EAGAIN: //nolint:errorlint // an errno
			isUp = false
		case unix.ECONNRESET: // it answered, and then reset
			isUp = true
			r.upstream.flags |= broken
		default:
			return false, dialError(addr, "connect", err)
		}
	}
	if !isUp {
		r.upstream.flags |= watched // that is how it will be told
	}
	if err := r.loop.await(r, &r.upstream); err != nil {
		return isUp, dialError(addr, "epoll_ctl", err)
	}
	return isUp, nil
}

// dialError is how package net words it.
func dialError(addr netip.AddrPort, call string, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: os.NewSyscallError(call, err)}
}

// connected acts on the first events of the endpoint's side.
func (r *relay) connected(events uint32) {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		errno, err := unix.GetsockoptInt(int(r.upstream.fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			r.attemptFailed(dialError(r.first.attempt.Addr, "getsockopt", err))
			return
		case errno != 0 && unix.Errno(errno) != unix.ECONNRESET:
			r.attemptFailed(dialError(r.first.attempt.Addr, "connect", unix.Errno(errno)))
			return
		}
		r.upstream.flags |= broken // it answered, and then reset
	} else if events&unix.EPOLLOUT == 0 {
		return
	}
	r.established()
}

// established goes on with an endpoint that has answered.
func (r *relay) established() {
	if early := r.first.early; len(early) > 0 {
		r.up.store = storeOf(early)
	}
	a := r.first.attempt
	a.opened()
	r.verdict = a.verdict()
	r.held = r.loop.now - r.accepted
	r.decided()
	o := &r.route.Options
	if o.UserTimeout > 0 {
		socket.SetInt(int(r.client.fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int32(socket.Milliseconds(o.UserTimeout)))
	}
	r.begin()
}

// begin relays, once both ends are up.
func (r *relay) begin() {
	l := r.loop
	r.state = relaying
	if r.route.Opened != nil {
		closed := r.route.Opened(r.verdict, func(cause error) { l.post(func() { r.cut(cause) }) })
		r.extra().closed = closed
	}
	accepted := l.at(r.accepted)
	if bounds := r.route.Options.limits(accepted); bounds != (limits{}) {
		r.extra().bounds = bounds
	}
	r.startTimers()
	switch { // a stream may have ended before the connection came to this loop
	case r.up.finished && r.down.finished:
		r.end()
		return
	case r.up.finished || r.down.finished:
		r.halfClosed()
	}
	l.young = append(l.young, young{relay: r, due: l.now + int64(settleAfter)})
	r.pump()
}

// lookConnecting is look for a relay that is connecting.
func (r *relay) lookConnecting() {
	l, p := r.loop, r.first
	if l.now >= p.deadline {
		r.attemptFailed(&net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(p.attempt.Addr), Err: context.DeadlineExceeded})
		return
	}
	// As with search, a client is not asked before most endpoints have answered.
	if r.client.flags&(ending|hung) != 0 && l.now-p.began >= int64(noticeAfter) && socket.HasGivenUp(int(r.client.fd)) {
		r.abandoned()
		return
	}
	patience := int64(r.patience())
	if p.attempt.Left > 1 || p.stop != nil || l.now-p.began < patience {
		return
	}
	// It is the last one and gets all the time there is, unless somebody else appears.
	ctx, cancel := context.WithCancel(l.server.ctx)
	p.stop = cancel
	chooser, held := p.chooser, r.accepted+int64(r.route.Options.Wait) >= l.now
	go func() {
		if !othersAppear(ctx, chooser, held, time.Duration(patience)) {
			return
		}
		l.post(func() {
			if ctx.Err() == nil && r.first == p {
				r.attemptFailed(errSilent)
			}
		})
	}()
}

// attemptFailed gives the connection to a search that goes on from here.
func (r *relay) attemptFailed(err error) {
	r.first.attempt.failed(err)
	r.toGoroutine(err)
}

// toGoroutine has a search go on in a goroutine of its own, after failure if that is not nil.
func (r *relay) toGoroutine(failure error) {
	l, s := r.loop, r.loop.server
	if r.upstream.fd >= 0 {
		r.hop().Left()
		socket.Close(int(r.upstream.fd))
		r.upstream.fd = -1
	}
	_ = socket.EpollControl(l.epoll, unix.EPOLL_CTL_DEL, int(r.client.fd), nil)
	search := &search{
		server: s, route: r.route.with(r.first.chooser), accepted: l.at(r.accepted), since: l.at(r.first.began),
		attempts: int(r.attempts), entered: s.limits(r.route), early: r.first.early,
		by: r.first.by, hop: r.hop(),
	}
	if failure != nil {
		search.inRound, search.failures = true, []error{failure}
	}
	r.decided()
	r.state = over
	l.remove(r)
	s.fallBack(int(r.client.fd), search, r.source, s.serve)
}

// abandoned ends the search because the client has left.
func (r *relay) abandoned() {
	r.abandon(Fail(ClientGone, fmt.Errorf("the client left before it was served (%s had not answered yet)", r.first.attempt.Addr)))
}

func (r *relay) abandon(cause error) {
	r.first.attempt.cancelled()
	r.decided()
	r.held = r.loop.now - r.accepted
	r.settle(cause)
	r.end()
}
