package proxy

import (
	"cmp"
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// reclaimPause is between two rounds.
	reclaimPause = 50 * time.Millisecond
	// reclaimLooks is of how many connections the kernel is asked in a round, and
	// reclaimScan how many each loop passes by to find them.
	reclaimLooks, reclaimScan = 64, 1024
)

// reclaimer resets idle connections of the client that has the most, in rounds, while
// others have no place. As long as nobody lacks one it does nothing. A connection that
// another process carries, a daemon that drains or what keeps connections of a dead one,
// has no place of this one's Limit, and is not concerned.
type reclaimer struct {
	after atomic.Int64                                      // nanoseconds; 0 is never
	idle  func(client, upstream int) (time.Duration, error) // nil is idleForFD

	mu      sync.Mutex
	spliced map[*splicing]struct{} // what goroutines carry
	leaving int                    // of those, as many as were told to go
}

// splicing is a connection that goroutines carry.
type splicing struct {
	share            *Share
	client, upstream *net.TCPConn
	cut              context.CancelCauseFunc
	told             bool
}

// idler is a connection on which nothing has moved for long.
type idler struct {
	idle    time.Duration
	relay   *relay    // of a loop
	spliced *splicing // of goroutines
}

// ReclaimIdle has connections on which no byte has moved for at least after reset with the
// reason over_limit, when others have no place in Limit: those of the client with the most,
// as long as it has more than its fair share, the longest idle of those that were looked at
// first, and just as many as are needed. 0 resets none. It may be called at any time.
func (s *Server) ReclaimIdle(after time.Duration) {
	if s.Limit == nil {
		return
	}
	s.reclaimer.after.Store(int64(after))
	if after <= 0 {
		s.Limit.watch(nil)
		return
	}
	s.Limit.watch(s.reclaim)
}

// reclaim makes rounds until nobody lacks a place.
func (s *Server) reclaim() {
	s.init()
	for {
		e, last := s.Limit.excess()
		if last {
			return
		}
		if after := time.Duration(s.reclaimer.after.Load()); e.want > 0 && after > 0 {
			s.reclaimFrom(&e, after)
		}
		select {
		case <-time.After(reclaimPause):
		case <-s.ctx.Done():
			return
		}
	}
}

// reclaimFrom is one round.
func (s *Server) reclaimFrom(e *excess, after time.Duration) {
	idlers, leaving := s.reclaimer.idlers(e.share, after)
	for _, l := range s.loops {
		l.call(func() { idlers = l.idlers(idlers, e.share, after, max(1, reclaimLooks/len(s.loops))) })
	}
	slices.SortFunc(idlers, func(a, b idler) int { return cmp.Compare(b.idle, a.idle) })
	for _, i := range idlers[:max(0, min(e.want-leaving, len(idlers)))] {
		if i.spliced != nil { // a byte may have come meanwhile, here and below
			if idle, err := s.reclaimer.idleOf(i.spliced); err == nil && idle >= after {
				s.reclaimer.tell(i.spliced, e.why(idle, after))
			}
			continue
		}
		i.relay.loop.call(func() {
			if i.relay.state != relaying {
				return
			}
			if idle, err := s.reclaimer.idleFor(int(i.relay.client.fd), int(i.relay.upstream.fd)); err == nil && idle >= after {
				i.relay.cut(e.why(idle, after))
			}
		})
	}
}

// why is the reason of one that is reset.
func (e *excess) why(idle, after time.Duration) error {
	return Fail(OverLimit, hint.Errorf(
		"raise --max-connections, send something more often than --reclaim-idle says, or change that; 0 resets no idle ones",
		"others had no place, %s had %d of the daemon's %d connections where %d were its fair share, and no byte had moved on this one for %s (--reclaim-idle %s)",
		e.share.name, e.has, e.of, e.fair, idle.Round(time.Millisecond), after))
}

func (r *reclaimer) idleFor(client, upstream int) (time.Duration, error) {
	if r.idle != nil {
		return r.idle(client, upstream)
	}
	return idleForFD(client, upstream)
}

// idlers adds those of share that a loop carries, of the next ones that it comes to.
func (l *loop) idlers(to []idler, share *Share, after time.Duration, looks int) []idler {
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

// idlers are those of share that goroutines carry, of some, and how many were told to go
// and have not gone yet.
func (r *reclaimer) idlers(share *Share, after time.Duration) (found []idler, leaving int) {
	r.mu.Lock()
	var some []*splicing
	scan := reclaimScan
	for c := range r.spliced { // which begins anywhere
		if c.share == share && !c.told {
			some = append(some, c)
		}
		if scan--; scan == 0 || len(some) == reclaimLooks {
			break
		}
	}
	leaving = r.leaving
	r.mu.Unlock()
	for _, c := range some {
		if idle, err := r.idleOf(c); err == nil && idle >= after {
			found = append(found, idler{idle: idle, spliced: c})
		}
	}
	return found, leaving
}

// idleOf asks how long nothing has moved; it fails when the connection has ended.
func (r *reclaimer) idleOf(c *splicing) (idle time.Duration, err error) {
	client, err := c.client.SyscallConn()
	if err != nil {
		return 0, err
	}
	upstream, err := c.upstream.SyscallConn()
	if err != nil {
		return 0, err
	}
	var gone error
	err = client.Control(func(one uintptr) {
		gone = upstream.Control(func(other uintptr) { idle, err = r.idleFor(int(one), int(other)) })
	})
	return idle, cmp.Or(err, gone)
}

// keep notes a connection that goroutines carry until forget is called, which is to be
// when its place is free. The context ends when it is to go.
func (r *reclaimer) keep(ctx context.Context, share *Share, client, upstream *net.TCPConn) (kept context.Context, forget func()) {
	kept, cut := context.WithCancelCause(ctx)
	c := &splicing{share: share, client: client, upstream: upstream, cut: cut}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spliced == nil {
		r.spliced = map[*splicing]struct{}{}
	}
	r.spliced[c] = struct{}{}
	return kept, func() {
		cut(nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.spliced, c)
		if c.told {
			r.leaving--
		}
	}
}

// tell has a connection go, unless it has gone.
func (r *reclaimer) tell(c *splicing, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, here := r.spliced[c]; here {
		c.told = true
		r.leaving++
		c.cut(why)
	}
}
