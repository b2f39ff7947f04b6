package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/selfdial"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// relay carries the bytes of a connection both ways until both streams have ended, and closes
// both sides. The end of one stream is passed on as the end of that stream alone (half-close,
// RFC 9293 §3.6); a reset of one side is passed on as a reset of the other, after all that came
// before it. So either sees the same of the other as on a direct connection; package pathtest
// has the proof. An idle one costs what this struct takes, and two descriptors.
type relay struct {
	loop       *loop
	route      *Route
	verdict    Verdict
	more       *more      // what few connections have; nil for the others
	first      *firstDial // while it is connecting
	cause      error      // why it ends; nil for a clean end
	source     netip.AddrPort
	accepted   int64  // as loop.now
	kept       uint64 // the Keeper's number; 0 while it was not shown to it
	held       int64  // nanoseconds from accept until the endpoint had answered
	up, down   stream
	client     side
	upstream   side
	slot       int32
	generation int32
	waitingAt  int32 // in loop.waiting; -1 if it is not there
	attempts   int32
	state      relayState
	isAgain    bool // in loop.again
	settled    bool // cause is final
	deserted   bool // the endpoint has ended its stream before the client did
}

// relayState is how far a relay is.
type relayState uint8

const (
	connecting relayState = iota
	relaying
	parting // broken; what was sent before is on its way
	over
)

// side is one of the two sockets.
type side struct {
	fd    int32
	flags sideFlags
}

type sideFlags uint8

const (
	readable sideFlags = 1 << iota // there may be something to read
	ending                         // nothing comes after what is there
	hung                           // reset, or both streams have ended
	pressing                       // an urgent byte is ahead
	broken                         // writing failed: it was reset
	delaying                       // small segments wait for an acknowledgement (RFC 896)
	watched                        // it tells when it takes more
)

// stream is one of the two directions.
type stream struct {
	bytes    int64 // passed on
	store    *store
	finished bool   // the end of it has been passed on
	bulky    bool   // worth a pipe
	dead     bool   // nobody takes it any more
	small    uint8  // pieces in a row that were worth no pipe
	atEnd    uint32 // bytes, modulo 2^32, when the side that gets them had ended its own stream
}

// bufferKind is where bytes are that have been taken and not yet given.
type bufferKind uint8

const (
	inPipe   bufferKind = iota + 1
	inMemory            // there was no pipe, or they are few
	urgent              // one byte that the sender marked (RFC 9293 §3.8.5)
)

// store is where bytes are that were taken and that the other side does not take yet.
type store struct {
	in     bufferKind
	unsent int
	pipe   pipe
	buffer *[bufferSize]byte
	given  int // of the buffer
	urgent byte
}

// more is what a connection has that few have.
type more struct {
	hop                        *selfdial.Hop // nil unless it may be part of a loop
	bounds                     limits        // of its life
	idle, halfClose, wholeLife *time.Timer   // nil until they run
	closed                     func()        // what Route.Opened has returned
	leave                      func()        // gives back what was passed to get here; nil for a connection that loop.admit let in
	passed                     passed        // before this relay

	slow    *side // the one that is waited for although the other is reset
	stallBy int64 // until when it may take nothing, as loop.now
	taken   int64 // bytes that it had acknowledged when it last did
	stalled bool
}

// passed is how many bytes of either stream have been passed on.
type passed struct{ up, down int64 }

// passed is how much has been passed on, here and before.
func (r *relay) passed() passed {
	all := passed{up: r.up.bytes, down: r.down.bytes}
	if m := r.more; m != nil {
		all.up += m.passed.up
		all.down += m.passed.down
	}
	return all
}

// hop is nil unless the connection may be part of a loop.
func (r *relay) hop() *selfdial.Hop {
	if r.more == nil {
		return nil
	}
	return r.more.hop
}

// pumpShare is how many bytes of one stream are moved before others have their turn.
const pumpShare = 4 << 20

// event notes what has happened to a side, and acts on it.
func (r *relay) event(upstream bool, events uint32) {
	s := &r.client
	if upstream {
		s = &r.upstream
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLPRI) != 0 {
		s.flags |= readable
	}
	if events&unix.EPOLLRDHUP != 0 {
		r.ends(s)
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.flags |= hung
	}
	if events&unix.EPOLLPRI != 0 {
		s.flags |= pressing
	}
	switch r.state {
	case connecting:
		if upstream {
			r.connected(events)
		}
	case relaying:
		r.happened(s)
	case parting, over:
	}
}

// happened moves what the news of s allow to be moved.
func (r *relay) happened(s *side) {
	to := r.toward(s)
	from := r.opposite(to)
	if s.flags&hung != 0 && from.finished && !to.finished && socket.GoneFD(int(s.fd)) {
		// Nobody reads s any more, so nobody else would see it.
		r.srcBroke(s, unix.ECONNRESET)
		return
	}
	if from.store != nil {
		r.watchStall(s)
	}
	if s.flags&readable != 0 && from.store == nil && !r.move(from) {
		return
	}
	if to.store != nil {
		r.move(to)
	}
}

// pump moves both streams.
func (r *relay) pump() {
	if r.move(&r.up) {
		r.move(&r.down)
	}
}

// move passes on what there is of a stream, and its end. It reports whether the relay
// goes on.
func (r *relay) move(d *stream) bool {
	src, dst := &r.client, &r.upstream
	if d == &r.down {
		src, dst = dst, src
	}
	for share := pumpShare; ; {
		if d.store != nil {
			if err := r.giveStored(d, dst); err != nil {
				return r.dstBroke(d, dst, err)
			}
			if d.store != nil {
				r.watchStall(src) // its reset may have come with the last bytes
				return r.awaitRoom(dst)
			}
		}
		if d.finished || d.dead || src.flags&readable == 0 {
			return true
		}
		if share <= 0 || d.bulky && r.loop.bulkIsOver() {
			r.later()
			return true
		}
		n, ended, err := r.take(d, src, dst)
		switch {
		case err == errDst: //nolint:errorlint // it is never wrapped
			return r.dstBroke(d, dst, r.loop.broke)
		case err != nil:
			return r.srcBroke(src, err)
		case ended:
			return r.finish(d, src, dst)
		}
		share -= n
	}
}

// awaitRoom has dst tell when it takes more. It reports whether the relay goes on.
func (r *relay) awaitRoom(dst *side) bool {
	if dst.flags&watched != 0 {
		return true
	}
	dst.flags |= watched
	if err := r.loop.control(unix.EPOLL_CTL_MOD, r, dst); err != nil {
		r.cut(Fail(OverLimit, fmt.Errorf("wait for the connection: %w", err)))
		return false
	}
	return true
}

// later goes on when others have had their turn.
func (r *relay) later() {
	if !r.isAgain {
		r.isAgain = true
		r.loop.again = append(r.loop.again, r)
	}
}

// finish passes on the end of a stream. It reports whether the relay goes on.
func (r *relay) finish(d *stream, src, dst *side) bool {
	opposite := r.opposite(d)
	// A reset looks like an end when a failed write of the other stream has used up its
	// error, or when an end came before it. It is none if we had ended our stream: nothing
	// was written since. One that comes from now on makes an event.
	if !opposite.finished && (src.flags&broken != 0 || src.flags&hung != 0 && socket.GoneFD(int(src.fd))) {
		if socket.EndedFirst(int(src.fd)) {
			d.finished = true
			_ = socket.Shutdown(int(dst.fd)) // it may be gone, too
		}
		return r.srcBroke(src, unix.ECONNRESET)
	}
	d.finished = true
	r.ends(src)
	if opposite.finished {
		r.end()
		return false
	}
	r.deserted = src == &r.upstream && dst.flags&(ending|hung) == 0
	if err := socket.Shutdown(int(dst.fd)); err != nil {
		return r.dstBroke(d, dst, err)
	}
	r.halfClosed()
	return true
}

func (r *relay) opposite(d *stream) *stream {
	if d == &r.up {
		return &r.down
	}
	return &r.up
}

// srcBroke passes a reset of src on, after the bytes that came before it: they have been
// acknowledged to src's peer, which would find them lost otherwise. It reports false.
func (r *relay) srcBroke(src *side, err error) bool {
	r.left(src, err)
	dst := r.other(src)
	r.part(dst)
	return false
}

// dstBroke follows a failure to write to dst. It reports whether the relay goes on.
func (r *relay) dstBroke(d *stream, dst *side, err error) bool {
	r.empty(d)
	if !socket.GoneFD(int(dst.fd)) {
		r.left(dst, err)
		r.cut(err)
		return false
	}
	// Nobody reads what src sends. The bytes that dst sent before have reached us before its reset
	// did; the other stream takes that along, and then finds the reset.
	r.left(dst, err)
	d.dead = true
	dst.flags |= broken | readable
	opposite := r.opposite(d)
	if opposite.finished {
		return r.srcBroke(dst, err)
	}
	return r.move(opposite)
}

func (r *relay) other(s *side) *side {
	if s == &r.client {
		return &r.upstream
	}
	return &r.client
}

// left settles that the peer of a side has broken the connection.
func (r *relay) left(s *side, err error) {
	if s == &r.client {
		r.settle(Fail(ClientGone, broke("the client", err)))
		return
	}
	r.settle(Fail(EndpointGone, broke("the endpoint", err)))
}

// settle says why the relay ends, unless that has been said.
func (r *relay) settle(cause error) {
	if !r.settled {
		r.settled, r.cause = true, cause
	}
}

// ignore stops events. A connection that was shown to a Keeper has other descriptors, too,
// which would go on to cause them.
func (r *relay) ignore() {
	_ = socket.EpollControl(r.loop.epoll, unix.EPOLL_CTL_DEL, int(r.client.fd), nil)
	if r.upstream.fd >= 0 {
		_ = socket.EpollControl(r.loop.epoll, unix.EPOLL_CTL_DEL, int(r.upstream.fd), nil)
	}
}

// cut ends both sides at once, unless they have ended.
func (r *relay) cut(cause error) {
	switch r.state {
	case connecting:
		r.abandon(cause)
	case relaying, parting:
		r.settle(cause)
		r.end()
	case over:
	}
}

// end closes both sides and tells of it.
func (r *relay) end() {
	if r.state == over {
		return
	}
	l := r.loop
	r.state = over
	r.stopTimers()
	l.waitNoMore(r)
	r.empty(&r.up)
	r.empty(&r.down)
	broken := r.cause != nil
	if broken && r.closedBefore() {
		r.cause = nil
	}
	reason := r.reason()
	if r.verdict != nil && r.servedNothing() {
		reason = unserving(r.route, reason)
	}
	r.closeBoth(broken)
	l.remove(r)
	r.report(reason)
}

// reason is Server.reason of a connection that is about to be closed.
func (r *relay) reason() error {
	if r.cause == nil || r.verdict == nil {
		return r.cause
	}
	return r.loop.server.reason(r.hop(), r.cause, func() (local, remote netip.AddrPort) {
		local, _ = socket.LocalAddr(int(r.upstream.fd)) // it is open
		return local, r.verdict.Endpoint().Addr
	})
}

// closeBoth closes both sockets, with a reset if the connection is broken.
func (r *relay) closeBoth(broken bool) {
	r.hop().Left()
	if r.kept != 0 {
		r.ignore()
		r.loop.closing.Lock()
		defer r.loop.closing.Unlock()
	}
	for _, s := range [...]*side{&r.client, &r.upstream} {
		switch {
		case s.fd < 0:
		case broken:
			socket.ResetFD(int(s.fd))
		case r.kept != 0: // the end of the stream must not wait for somebody else's descriptor
			_ = socket.Shutdown(int(s.fd))
			socket.Close(int(s.fd))
		default:
			socket.Close(int(s.fd))
		}
		s.fd = -1
	}
}

// report tells everybody of the end, which has a reason.
func (r *relay) report(reason error) {
	s := r.loop.server
	record := Record{
		Route: *r.route, Source: r.source, Attempts: int(r.attempts), Held: time.Duration(r.held),
		Err: reason, Told: r.loop.takeTold(r.slot),
	}
	all := r.passed()
	record.Up, record.Down = all.up, all.down
	if r.verdict != nil { // an endpoint has answered
		record.Endpoint = r.verdict.Endpoint()
		r.verdict.Closed(r.down.bytes > 0, ReasonOf(r.cause) == EndpointGone)
	}
	leave := func() { s.leave(r.route) }
	if m := r.more; m != nil {
		if m.closed != nil {
			m.closed()
		}
		if m.leave != nil {
			leave = m.leave
		}
	}
	if r.kept != 0 {
		s.Keeper.Release(r.kept)
	}
	leave()
	s.gone(&record, r.loop.at(r.accepted))
}
