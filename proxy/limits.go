package proxy

import (
	"net"
	"sync"
	"time"
)

// limits bound the life of a spliced connection. Zero means no limit, and costs
// nothing.
type limits struct {
	// Idle is how long no byte may move on either side.
	Idle time.Duration
	// HalfClosed is how long the second stream may go on after the first has
	// ended.
	HalfClosed time.Duration
	// Lifetime is how long the connection may be spliced.
	Lifetime time.Duration
	// Stall is how long a reset waits for the other side to take what came before
	// it while that takes nothing; 0 means 10 s.
	Stall time.Duration
}

const defaultStall = 10 * time.Second

// timers enforce limits on one connection: cut is called with the reason of a limit
// that is passed. Nothing is told of each byte: the kernel knows when the last one
// moved, and is asked when the limit could be up. A nil *timers enforces nothing.
type timers struct {
	limits           limits
	client, upstream *net.TCPConn
	idleFor          func(client, upstream *net.TCPConn) (time.Duration, error)
	cut              func(error)

	mu                         sync.Mutex
	stopped                    bool
	idle, halfClose, wholeLife *time.Timer // nil until they run
}

// start sets the limits that count from now.
func (t *timers) start() {
	if t == nil {
		return
	}
	if t.limits.Idle > 0 {
		t.set(&t.idle, t.limits.Idle, t.checkIdle)
	}
	if t.limits.Lifetime > 0 {
		t.set(&t.wholeLife, t.limits.Lifetime, func() {
			t.cut(lifetimeOver(t.limits.Lifetime))
		})
	}
}

// halfClosed says that one of the two streams has ended.
func (t *timers) halfClosed() {
	if t == nil {
		return
	}
	if t.limits.HalfClosed > 0 {
		t.set(&t.halfClose, t.limits.HalfClosed, func() {
			t.cut(halfClosedFor(t.limits.HalfClosed))
		})
	}
}

// set has do called after d, unless all is stopped before.
func (t *timers) set(timer **time.Timer, d time.Duration, do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stopped {
		*timer = time.AfterFunc(d, do)
	}
}

// checkIdle looks how long nothing has moved and, if that is not long enough, comes
// back when it could be.
func (t *timers) checkIdle() {
	idle, err := t.idleFor(t.client, t.upstream)
	if err != nil {
		return // it has ended already
	}
	if idle >= t.limits.Idle {
		t.cut(idleOver(t.limits.Idle))
		return
	}
	t.set(&t.idle, t.limits.Idle-idle, t.checkIdle)
}

// stop stops them all.
func (t *timers) stop() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	for _, timer := range []*time.Timer{t.idle, t.halfClose, t.wholeLife} {
		if timer != nil {
			timer.Stop()
		}
	}
}
