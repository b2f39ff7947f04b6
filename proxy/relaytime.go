package proxy

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// limits bound the life of a connection that is relayed. Zero means no limit, and costs
// nothing.
type limits struct {
	// Idle is how long no byte may move on either side.
	Idle time.Duration
	// HalfClosed is how long the second stream may go on after the first has
	// ended.
	HalfClosed time.Duration
	// Lifetime is how long the connection may be relayed.
	Lifetime time.Duration
	// Stall is how long a reset waits for the other side to take what came before
	// it while that takes nothing; 0 means 10 s.
	Stall time.Duration
}

const defaultStall = 10 * time.Second

// extra is what only some connections have.
func (r *relay) extra() *more {
	if r.more == nil {
		r.more = &more{}
	}
	return r.more
}

// watchStall looks from now on whether the side that src sends to takes anything, once
// src is reset: nobody reads src meanwhile.
func (r *relay) watchStall(src *side) {
	if src.flags&hung == 0 || r.waitingAt >= 0 || !socket.GoneFD(int(src.fd)) {
		return
	}
	r.expect(r.other(src))
	r.loop.wait(r)
}

// expect has the side that is slow take something from now on.
func (r *relay) expect(slow *side) {
	m := r.extra()
	m.slow = slow
	m.taken = r.takenBy(slow)
	m.stallBy = r.loop.now + int64(firstPositive(m.bounds.Stall, defaultStall))
}

// takenBy is how many bytes a side has acknowledged of those it was sent here.
func (r *relay) takenBy(s *side) int64 {
	unacked, err := unix.IoctlGetInt(int(s.fd), unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return r.toward(s).bytes - int64(unacked)
}

// toward is the stream that a side gets.
func (r *relay) toward(s *side) *stream {
	if s == &r.upstream {
		return &r.up
	}
	return &r.down
}

// look is called each tick while r waits.
func (r *relay) look() {
	switch r.state {
	case connecting:
		r.lookConnecting()
	case relaying:
		r.lookStalled()
	case parting:
		r.lookParting()
	case over:
	}
}

// takes reports whether the slow side has taken anything lately.
func (r *relay) takes() bool {
	if m := r.more; r.takenBy(m.slow) > m.taken {
		r.expect(m.slow)
	}
	return r.loop.now < r.more.stallBy
}

func (r *relay) lookStalled() {
	slow := r.more.slow
	switch {
	case r.toward(slow).store == nil:
		r.loop.waitNoMore(r)
	case !r.takes():
		r.more.stalled = true
		r.srcBroke(r.other(slow), unix.ECONNRESET)
	}
}

// part resets both sides once dst's peer has all that was sent to it, or takes nothing
// for too long: closing with a reset throws away what waits to be sent.
func (r *relay) part(dst *side) {
	waiting, err := unix.IoctlGetInt(int(dst.fd), unix.SIOCOUTQ)
	if err != nil || waiting == 0 || r.more != nil && r.more.stalled {
		r.end()
		return
	}
	r.state = parting
	r.ignore()
	r.expect(dst)
	r.loop.waitNoMore(r)
	r.loop.wait(r)
}

// lookParting ends the relay when the slow side has all that was sent to it, or takes
// nothing, as flush does.
func (r *relay) lookParting() {
	fd := int(r.more.slow.fd)
	waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	switch {
	case err != nil || waiting == 0 || socket.GoneFD(fd):
		r.end()
	case !r.takes():
		r.more.stalled = true
		r.end()
	}
}

// ends notes that a side ends its stream: what comes before the end may be unread.
func (r *relay) ends(s *side) {
	if s.flags&ending == 0 {
		s.flags |= ending
		to := r.toward(s)
		to.atEnd = uint32(to.bytes)
	}
}

// closedBefore reports whether the connection was broken by a reset after a side had closed its
// socket: it had ended its stream, and nothing that it was sent since was acknowledged, for a kernel
// answers bytes for a socket that is closed with a reset (RFC 9293 §3.10.7.1). On a direct connection
// such a reset comes likewise and nobody sees it, so that is no failure, whichever side's reset came
// first. A side that goes on to read after the end of its stream and is reset then has failed.
func (r *relay) closedBefore() bool {
	if r.verdict == nil || r.more != nil && r.more.stalled { // nobody had answered, or bytes are lost
		return false
	}
	if reason := ReasonOf(r.cause); reason != ClientGone && reason != EndpointGone {
		return false
	}
	return r.hasClosed(&r.client, ClientGone) || !r.servedNothing() && r.hasClosed(&r.upstream, EndpointGone)
}

// hasClosed is closedBefore of one side; gone is the reason of a connection that it breaks. It takes
// the error of the socket.
func (r *relay) hasClosed(s *side, gone Reason) bool {
	to := r.toward(s)
	if s.flags&(hung|broken) == 0 && uint32(to.bytes) == to.atEnd {
		return false // it has told of no reset, and was sent nothing that one could be the answer to
	}
	errno := socket.ErrorOf(int(s.fd))
	if errno == 0 && ReasonOf(r.cause) == gone { // it has been taken, by what found the reset
		errno = errnoOf(r.cause)
	}
	switch errno {
	case unix.EPIPE: // the end of its stream came before the reset
	case 0, unix.ECONNRESET, unix.ENOTCONN:
		if !r.opposite(to).finished {
			return false
		}
	default: // it does not answer
		return false
	}
	return socket.GoneFD(int(s.fd)) && (s.flags&ending == 0 || int32(uint32(r.takenBy(s))-to.atEnd) <= 0)
}

// servedNothing reports whether the endpoint has ended its stream without having sent a byte, before
// the client ended its own.
func (r *relay) servedNothing() bool { return r.deserted && r.passed().down == 0 }

// settleIn does for a connection that is a second old what most end before.
func (r *relay) settleIn() {
	o := &r.route.Options
	for _, s := range [...]*side{&r.client, &r.upstream} {
		socket.KeepAliveFD(int(s.fd), o.KeepAlive)
	}
	if keeper := r.loop.server.Keeper; keeper != nil {
		r.kept = keeper.Keep(r)
	}
}

// Live is what there is to say of the connection.
func (r *relay) Live() Live {
	return Live{
		Route: *r.route, Source: r.source, Endpoint: r.verdict.Endpoint(), Attempts: int(r.attempts),
		Accepted: r.loop.at(r.accepted),
	}
}

// Duplicate makes descriptors of both ends, unless they have been closed or there are
// none left.
func (r *relay) Duplicate() (client, upstream int, ok bool) {
	r.loop.closing.Lock()
	defer r.loop.closing.Unlock()
	if r.client.fd < 0 {
		return -1, -1, false
	}
	return socket.DuplicatePair(int(r.client.fd), int(r.upstream.fd))
}

// startTimers sets the limits of the connection's life. Nothing is told
// of each byte: see timers.
func (r *relay) startTimers() {
	m := r.more
	if m == nil {
		return
	}
	if m.bounds.Idle > 0 {
		r.after(&m.idle, m.bounds.Idle, r.checkIdle)
	}
	if m.bounds.Lifetime > 0 {
		r.after(&m.wholeLife, m.bounds.Lifetime, func() { r.cut(lifetimeOver(m.bounds.Lifetime)) })
	}
}

func (r *relay) halfClosed() {
	if m := r.more; m != nil && m.bounds.HalfClosed > 0 {
		r.after(&m.halfClose, m.bounds.HalfClosed, func() { r.cut(halfClosedFor(m.bounds.HalfClosed)) })
	}
}

func (r *relay) checkIdle() {
	if r.state != relaying {
		return
	}
	limit := r.more.bounds.Idle
	idle, err := r.loop.server.reclaimer.idleFor(int(r.client.fd), int(r.upstream.fd))
	switch {
	case err != nil:
	case idle >= limit:
		r.cut(idleOver(limit))
	default:
		r.after(&r.more.idle, limit-idle, r.checkIdle)
	}
}

// after has the loop call f after d.
func (r *relay) after(timer **time.Timer, d time.Duration, f func()) {
	*timer = time.AfterFunc(d, func() { r.loop.post(f) })
}

func (r *relay) stopTimers() {
	if r.more == nil {
		return
	}
	for _, t := range []*time.Timer{r.more.idle, r.more.halfClose, r.more.wholeLife} {
		if t != nil {
			t.Stop()
		}
	}
}

func idleOver(d time.Duration) error {
	return Fail(IdleTimeout, fmt.Errorf("no byte has moved for %s", d))
}

func lifetimeOver(d time.Duration) error {
	return Fail(LifetimeOver, fmt.Errorf("it has lasted for %s, as long as it may", d))
}

func halfClosedFor(d time.Duration) error {
	return Fail(HalfClosedTimeout, fmt.Errorf("one side has ended its stream, and the other has not for %s", d))
}
