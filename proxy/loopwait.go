package proxy

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

const (
	// shortWait is for how many milliseconds a wait keeps the processor. The runtime ends it
	// by a signal when it wants something. To set the clock for less than a tick of the
	// kernel's would cost more than many an event.
	shortWait = 20
	// spinFor is for how long a loop looks for events before it sleeps, where they come
	// quickly: not longer than a sleep may take of the processors, of the one that wakes as
	// well as of the one that is woken.
	spinFor = 10 * time.Microsecond
	// frequentGap is how far apart events are at most, on the average, that come quickly.
	frequentGap = 20 * time.Microsecond
	// ratePeriod is the time over which that average is taken.
	ratePeriod = 2 * time.Millisecond
)

// poll waits for events and returns how many there are, which may be none.
//
// A loop that has much to do waits briefly and often. The scheduler would watch each of
// these waits for one that lasts, and wake a thread to take the processor to other
// goroutines; that costs more than to move a message. So a short wait keeps the processor,
// as long as others are left to everybody else, and only one that lasts gives it up.
// Where events come quickly the next one is awaited without sleep, for spinFor.
func (l *loop) poll(events []unix.EpollEvent) int {
	patience := l.patience()
	if l.busy && patience != 0 {
		if l.rate.high {
			if n := l.spin(events); n > 0 {
				return n
			}
		}
		n, err := socket.EpollWait(l.epoll, events, shortWait)
		if n > 0 || err == unix.EINTR { //nolint:errorlint // an errno; the runtime wants something of this thread
			return n
		}
	}
	n, err := unix.EpollWait(l.epoll, events, patience)
	if err != nil && !errors.Is(err, unix.EINTR) {
		panic(fmt.Sprintf("epoll_wait: %v", err)) // only a descriptor that is none, or memory that is not ours
	}
	l.busy = n > 0 && runtime.GOMAXPROCS(0) > l.server.Loops
	return max(n, 0)
}

// spin looks for events without sleep.
func (l *loop) spin(events []unix.EpollEvent) int {
	for until := l.clock() + int64(spinFor); ; {
		n, _ := socket.EpollWait(l.epoll, events, 0)
		if n > 0 || l.clock() >= until {
			return n
		}
	}
}

// eventRate is how quickly events come.
type eventRate struct {
	high  bool  // as of the last time that was looked at
	since int64 // when that was, as loop.now
	came  int   // events since
}

// note counts n events that have come by now.
func (p *eventRate) note(n int, now int64) {
	p.came += n
	if past := now - p.since; past >= int64(ratePeriod) {
		p.high = int64(p.came)*int64(frequentGap) >= past
		p.came, p.since = 0, now
	}
}

// patience is for how many milliseconds nothing has to be done.
func (l *loop) patience() int {
	if len(l.again) > 0 {
		return 0
	}
	wait := int64(-1)
	if l.done < len(l.young) {
		wait = max(l.young[l.done].due+int64(settleTogether)-l.now, 0)
	}
	if len(l.waiting) > 0 && (wait < 0 || wait > int64(tick)) {
		wait = int64(tick)
	}
	if wait < 0 {
		return -1
	}
	return int((wait + int64(time.Millisecond) - 1) / int64(time.Millisecond))
}
