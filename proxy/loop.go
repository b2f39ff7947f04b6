package proxy

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/dialfault"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// loop carries connections in one goroutine: it waits in epoll_wait(2) for events
// of any of them. A goroutine for each stream would cost a stack for
// each, and a wake-up by way of the scheduler for each message; here many messages come
// with one call. Nothing that a loop calls may wait.
type loop struct {
	server *Server
	epoll  int
	wake   int       // an eventfd: somebody has posted
	began  time.Time // times are counted from here

	mu     sync.Mutex
	posted []func()
	ended  bool

	// What follows belongs to the loop's goroutine.
	stopped     bool
	busy        bool // the last wait ended with events, and may be short
	rate        eventRate
	now         int64 // nanoseconds since began, when this batch of events came
	until       int64 // when bulk has had its turn
	relays      []*relay
	generations int32             // tells the events of a connection from those of earlier ones in its slot
	free        []int32           // slots of relays
	told        []Told            // by slots of relays, as far as Server.Moved has come
	again       []*relay          // has more to do, without an event
	waiting     []*relay          // to be looked at each tick
	ticked      int64             // when that was
	young       []young           // not a second old, the oldest first
	done        int               // of young
	acceptors   map[int]*acceptor // by the descriptor that is listened on
	firstDials  []*firstDial      // unused
	reclaimAt   int               // of relays, the last that was looked at for its idleness
	spare       socket.Spare
	ports       dialfault.LocalPorts
	buffer      [loopBuffer]byte
	broke       error // of the last write that failed

	closing sync.Mutex // held while a connection that was shown to a Keeper is closed
}

// young is a connection that has yet to be settled in.
type young struct {
	relay *relay
	due   int64
}

const (
	// loopBuffer is what is read at once. A stream that fills it is moved by splice(2).
	loopBuffer = 8 << 10
	// smallInARow is how many pieces of less than half of that a bulky stream may have on
	// the way, as bulk has now and then, before it is read again.
	smallInARow = 16
	// youngAsARule is for how many a loop has the room at hand.
	youngAsARule = 1 << 10
	// bulkTurn is for how long bulk is moved, all of it together, before the loop looks for
	// events: a client that dials or sends a message waits for no more than two such turns, however
	// many others send as much as they can.
	bulkTurn = time.Millisecond
	// tick is how often connections are looked at that wait for something of which no
	// event tells.
	tick = 20 * time.Millisecond
	// settleAfter is the age at which a connection is worth what most end before.
	settleAfter = time.Second
	// settleTogether is how much later that may be, so that it is done for many at once.
	settleTogether = 200 * time.Millisecond
	// wholeEvents are what a loop waits for of a connection, told of once each
	// (epoll(7), EPOLLET), besides EPOLLOUT. That one every shutdown(2) tells of, too, so
	// a relay that has nothing to write does not wait for it.
	wholeEvents = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET&0xffffffff

	wakeSlot = -1
)

// newLoop makes a loop; run has to be called.
func newLoop(s *Server) (*loop, error) {
	l := &loop{server: s, began: time.Now(), acceptors: map[int]*acceptor{}}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		socket.Close(l.epoll)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	if err := socket.EpollControl(l.epoll, unix.EPOLL_CTL_ADD, l.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeSlot}); err != nil {
		socket.Close(l.wake)
		socket.Close(l.epoll)
		return nil, fmt.Errorf("wait for an eventfd: %w", err)
	}
	return l, nil
}

// post has the loop call f, unless it has ended, which it reports by false.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 {
		one := [8]byte{1}
		_, _ = unix.Write(l.wake, one[:])
	}
	return true
}

// call has the loop call f, and waits for that, unless it has ended.
func (l *loop) call(f func()) {
	done := make(chan struct{})
	if l.post(func() { defer close(done); f() }) {
		<-done
	}
}

// run carries connections until stop is posted. It keeps to one thread: the runtime takes
// the processor from a goroutine that runs for 10 ms, and another thread would go on with
// it, which the kernel would have to find a place for beside the first, time and again.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var events [128]unix.EpollEvent
	l.spare.Take()
	for !l.stopped {
		n := l.poll(events[:])
		l.now = l.clock()
		l.until = l.now + int64(bulkTurn)
		l.rate.note(n, l.now)
		for i := range n {
			l.event(&events[i])
		}
		l.resume()
		l.lookAround()
	}
	l.spare.Release()
	for !l.end() { // what was posted meanwhile somebody may wait for
		l.takePosted()
	}
}

// end ends the loop, unless something is posted.
func (l *loop) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.posted) > 0 {
		return false
	}
	l.ended = true
	socket.Close(l.wake)
	socket.Close(l.epoll)
	return true
}

// clock is the time now, as l.now; at is such a time as others have it.
func (l *loop) clock() int64         { return int64(time.Since(l.began)) }
func (l *loop) at(t int64) time.Time { return l.began.Add(time.Duration(t)) }

// event acts on one event.
func (l *loop) event(e *unix.EpollEvent) {
	switch {
	case e.Fd == wakeSlot:
		l.takePosted()
	case e.Fd < wakeSlot:
		if d := l.acceptors[int(-e.Fd)]; d != nil {
			d.accept(l)
		}
	default:
		// A connection may have ended earlier in this batch, and another have its place.
		if r := l.relays[e.Fd>>1]; r != nil && r.generation == e.Pad {
			r.event(e.Fd&1 != 0, e.Events)
		}
	}
}

func (l *loop) takePosted() {
	var count [8]byte
	_, _ = unix.Read(l.wake, count[:])
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// bulkIsOver reports whether bulk has had its turn.
func (l *loop) bulkIsOver() bool { return l.clock() >= l.until }

// resume goes on with those that had their share before they were through, in a turn of their
// own: events may have used up the one before.
func (l *loop) resume() {
	if len(l.again) == 0 {
		return
	}
	l.until = l.clock() + int64(bulkTurn)
	for n := len(l.again); n > 0 && !l.bulkIsOver(); n-- {
		r := l.again[0]
		l.again = append(l.again[:0], l.again[1:]...)
		r.isAgain = false
		if r.state == relaying {
			r.pump()
		}
	}
}

// lookAround does what only time tells.
func (l *loop) lookAround() {
	if len(l.waiting) > 0 && l.now-l.ticked >= int64(tick) {
		l.ticked = l.now
		for i := len(l.waiting) - 1; i >= 0; i-- { // one that stops waiting is replaced by the last
			if i < len(l.waiting) {
				l.waiting[i].look()
			}
		}
	}
	if l.done < len(l.young) && l.young[l.done].due+int64(settleTogether) <= l.now {
		for l.done < len(l.young) && l.young[l.done].due <= l.now {
			y := l.young[l.done]
			l.young[l.done] = young{}
			l.done++
			if y.relay.state == relaying {
				y.relay.settleIn()
			}
		}
	}
	if l.done > 0 && l.done*2 >= len(l.young) {
		n := copy(l.young, l.young[l.done:])
		clear(l.young[n:])
		l.young, l.done = l.young[:n], 0
		if n == 0 && cap(l.young) > youngAsARule {
			l.young = nil
		}
	}
}

// add takes a connection in.
func (l *loop) add(r *relay) {
	if n := len(l.free); n > 0 {
		r.slot = l.free[n-1]
		l.free = l.free[:n-1]
		l.relays[r.slot] = r
	} else {
		r.slot = int32(len(l.relays))
		l.relays = append(l.relays, r)
	}
	l.generations++
	r.generation = l.generations
}

// adopt goes on with a connection whose ends are both up.
func (l *loop) adopt(r *relay) {
	socket.KeepUrgentInLine(int(r.client.fd))
	socket.KeepUrgentInLine(int(r.upstream.fd))
	l.add(r)
	err := l.await(r, &r.client)
	if err == nil {
		err = l.await(r, &r.upstream)
	}
	switch {
	case err != nil: // out of memory or watches (epoll_ctl(2))
		r.state = relaying
		r.cut(Fail(OverLimit, fmt.Errorf("wait for the connection: %w", err)))
	case l.server.ctx.Err() != nil:
		r.state = relaying
		r.cut(context.Cause(l.server.ctx))
	default:
		r.begin()
	}
}

// remove forgets a connection. Events of its descriptors that are still to come are passed over.
func (l *loop) remove(r *relay) {
	if l.relays[r.slot] == r {
		l.relays[r.slot] = nil
		l.free = append(l.free, r.slot)
	}
}

// await waits for events of an end.
func (l *loop) await(r *relay, s *side) error { return l.control(unix.EPOLL_CTL_ADD, r, s) }

// control adds an end to the epoll set, or changes what is waited for.
func (l *loop) control(operation int, r *relay, s *side) error {
	fd := r.slot << 1
	if s == &r.upstream {
		fd |= 1
	}
	var events uint32 = wholeEvents
	if s.flags&watched != 0 {
		events |= unix.EPOLLOUT
	}
	return socket.EpollControl(l.epoll, operation, int(s.fd), &unix.EpollEvent{Events: events, Fd: fd, Pad: r.generation})
}

// wait has r looked at each tick until it is woken.
func (l *loop) wait(r *relay) {
	if r.waitingAt < 0 {
		r.waitingAt = int32(len(l.waiting))
		l.waiting = append(l.waiting, r)
	}
}

func (l *loop) waitNoMore(r *relay) {
	if r.waitingAt < 0 {
		return
	}
	last := len(l.waiting) - 1
	moved := l.waiting[last]
	l.waiting[r.waitingAt] = moved
	moved.waitingAt = r.waitingAt
	l.waiting[last] = nil
	l.waiting = l.waiting[:last]
	r.waitingAt = -1
}

// cutAll resets every connection.
func (l *loop) cutAll(cause error) {
	for _, r := range l.relays {
		if r != nil {
			r.cut(cause)
		}
	}
}

// idlers adds those of share that a loop carries, of the next ones that it comes to.
func (l *loop) idlers(to []idler, share *limit.Share, after time.Duration, looks int) []idler {
	for range min(len(l.relays), reclaimScan) {
		if l.reclaimAt++; l.reclaimAt >= len(l.relays) {
			l.reclaimAt = 0
		}
		r := l.relays[l.reclaimAt]
		if r == nil || r.state != relaying || r.route.Share != share {
			continue
		}
		if idle, err := l.server.reclaimer.idleFor(int(r.client.fd), int(r.upstream.fd)); err == nil && idle >= after {
			to = append(to, idler{idle: idle, relay: r})
		}
		if looks--; looks == 0 {
			break
		}
	}
	return to
}

// carried adds those in the slots from at on, and reports whether there are more slots.
func (l *loop) carried(to []Carried, at int) (all []Carried, more bool) {
	if at == 0 && to == nil {
		to = make([]Carried, 0, len(l.relays))
	}
	end := min(at+carriedAtOnce, len(l.relays))
	for _, r := range l.relays[min(at, end):end] {
		if r == nil || r.state != relaying || r.route == nil {
			continue
		}
		to = append(to, l.carriedOf(r))
	}
	return to, end < len(l.relays)
}

func (l *loop) carriedOf(r *relay) Carried {
	so := r.passed()
	return Carried{
		Route: r.route, Source: r.source, Endpoint: r.verdict.Endpoint(), Attempts: int(r.attempts),
		Accepted: l.began.Add(time.Duration(r.accepted)), Held: time.Duration(r.held), Up: so.up, Down: so.down,
	}
}

// cutMatching resets those that match in the slots from at on, and reports whether there are more slots.
func (l *loop) cutMatching(at int, match func(*Carried) bool, cause error) (cut int, more bool) {
	end := min(at+carriedAtOnce, len(l.relays))
	for _, r := range l.relays[min(at, end):end] {
		if r == nil || r.state != relaying || r.route == nil {
			continue
		}
		if c := l.carriedOf(r); match(&c) {
			r.cut(cause)
			cut++
		}
	}
	return cut, end < len(l.relays)
}

// moved adds what those in the slots from at on have moved and was not told of, and notes that it
// is told of. It reports whether there are more slots.
func (l *loop) moved(to []Moved, at int) (all []Moved, more bool) {
	end := min(at+carriedAtOnce, len(l.relays))
	if len(l.told) < end {
		l.told = append(l.told, make([]Told, end-len(l.told))...)
	}
	for slot := min(at, end); slot < end; slot++ {
		r, told := l.relays[slot], &l.told[slot]
		if r == nil || r.state != relaying || r.route == nil {
			continue
		}
		so := r.passed()
		if told.Connection && so.up == told.Up && so.down == told.Down {
			continue
		}
		one := Moved{Route: r.route, Endpoint: r.verdict.Endpoint().Addr, Up: so.up - told.Up, Down: so.down - told.Down, First: !told.Connection}
		if one.First {
			one.Attempts, one.Held = int(r.attempts), time.Duration(r.held)
		}
		to = append(to, one)
		*told = Told{Connection: true, Up: so.up, Down: so.down}
	}
	return to, end < len(l.relays)
}

// takeTold is how much of a connection that ends was told of, and forgets it.
func (l *loop) takeTold(slot int32) (told Told) {
	if int(slot) < len(l.told) {
		told, l.told[slot] = l.told[slot], Told{}
	}
	return told
}
