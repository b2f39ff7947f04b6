package proxy

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// extra is what only some connections have.
func (r *relay) extra() *more {
	if r.more == nil {
		r.more = &more{}
	}
	return r.more
}

// watchStall looks from now on whether the side that src sends to takes anything, once
// src is reset: nobody reads src meanwhile.
func (r *relay) watchStall(src *side, d *stream) {
	if r.waitingAt >= 0 || !goneFD(int(src.fd)) {
		return
	}
	m := r.extra()
	m.taken = r.takenBy(r.other(src), d)
	m.stallBy = r.loop.now + int64(firstPositive(m.bounds.Stall, defaultStall))
	r.loop.wait(r)
}

// takenBy is how many bytes of a stream its receiver has acknowledged.
func (r *relay) takenBy(dst *side, d *stream) int64 {
	waiting, err := unix.IoctlGetInt(int(dst.fd), unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return d.bytes - int64(waiting)
}

// look is called each tick while r waits.
func (r *relay) look() {
	if r.state == connecting {
		r.lookConnecting()
		return
	}
	src, d := &r.client, &r.up
	if src.flags&hung == 0 || d.store == nil {
		src, d = &r.upstream, &r.down
	}
	if r.state != relaying || src.flags&hung == 0 || d.store == nil {
		r.loop.waitNoMore(r)
		return
	}
	taken := r.takenBy(r.other(src), d)
	switch {
	case taken > r.more.taken:
		r.more.taken = taken
		r.more.stallBy = r.loop.now + int64(firstPositive(r.more.bounds.Stall, defaultStall))
	case r.loop.now >= r.more.stallBy:
		r.more.stalled = true
		r.srcBroke(src, unix.ECONNRESET)
	}
}

// settleIn does for a connection that is a second old what most end before.
func (r *relay) settleIn() {
	o := &r.route.Options
	for _, s := range [...]*side{&r.client, &r.upstream} {
		keepAliveFD(int(s.fd), o.KeepAlive)
	}
	if keep := r.loop.server.Keep; keep != nil && (r.more == nil || r.more.release == nil) {
		r.kept = true
		r.extra().release = keep(r)
	}
}

// Live is what there is to say of the connection.
func (r *relay) Live() Live {
	return Live{
		Route: *r.route, Source: r.source, Endpoint: r.endpoint, Attempts: int(r.attempts),
		Accepted: r.loop.began.Add(time.Duration(r.accepted)),
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
	return duplicatePair(int(r.client.fd), int(r.upstream.fd))
}

func duplicatePair(one, other int) (a, b int, ok bool) {
	a, err := unix.FcntlInt(uintptr(one), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, -1, false
	}
	b, err = unix.FcntlInt(uintptr(other), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		closeRaw(a)
		return -1, -1, false
	}
	return a, b, true
}

// startTimers sets the limits of the connection's life. As with splice, nothing is told
// of each byte: see timers.
func (r *relay) startTimers() {
	m := r.more
	if m == nil {
		return
	}
	if m.bounds.Idle > 0 {
		r.after(m.bounds.Idle, r.checkIdle)
	}
	if m.bounds.Lifetime > 0 {
		r.after(m.bounds.Lifetime, func() { r.cut(lifetimeOver(m.bounds.Lifetime)) })
	}
}

func (r *relay) halfClosed() {
	if m := r.more; m != nil && m.bounds.HalfClosed > 0 {
		r.after(m.bounds.HalfClosed, func() { r.cut(halfClosedFor(m.bounds.HalfClosed)) })
	}
}

func (r *relay) checkIdle() {
	if r.state != relaying {
		return
	}
	limit := r.more.bounds.Idle
	idle, err := idleForFD(int(r.client.fd), int(r.upstream.fd))
	switch {
	case err != nil:
	case idle >= limit:
		r.cut(idleOver(limit))
	default:
		r.after(limit-idle, r.checkIdle)
	}
}

// after has the loop call f after d.
func (r *relay) after(d time.Duration, f func()) {
	r.more.timers = append(r.more.timers, time.AfterFunc(d, func() { r.loop.post(f) }))
}

func (r *relay) stopTimers() {
	if r.more == nil {
		return
	}
	for _, t := range r.more.timers {
		t.Stop()
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
