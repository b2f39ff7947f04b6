package proxy

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/limit"
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
// another process carries, a daemon that drains or the keeper of a dead one,
// has no place of this one's Limit, and is not concerned.
type reclaimer struct {
	after atomic.Int64                                      // nanoseconds; 0 is never
	idle  func(client, upstream int) (time.Duration, error) // nil is socket.IdleForFD
}

// idler is a connection on which nothing has moved for long.
type idler struct {
	idle  time.Duration
	relay *relay
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
		s.Limit.Watch(nil)
		return
	}
	s.Limit.Watch(s.reclaim)
}

// reclaim makes rounds until nobody lacks a place.
func (s *Server) reclaim() {
	s.init()
	for {
		e, last := s.Limit.Excess()
		if last {
			return
		}
		if after := time.Duration(s.reclaimer.after.Load()); e.Want > 0 && after > 0 {
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
func (s *Server) reclaimFrom(e *limit.Excess, after time.Duration) {
	var idlers []idler
	for _, l := range s.loops {
		l.call(func() { idlers = l.idlers(idlers, e.Share, after, max(1, reclaimLooks/len(s.loops))) })
	}
	slices.SortFunc(idlers, func(a, b idler) int { return cmp.Compare(b.idle, a.idle) })
	for _, i := range idlers[:max(0, min(e.Want, len(idlers)))] {
		i.relay.loop.call(func() {
			if i.relay.state != relaying {
				return
			}
			if idle, err := s.reclaimer.idleFor(int(i.relay.client.fd), int(i.relay.upstream.fd)); err == nil && idle >= after {
				i.relay.cut(whyReclaimed(e, idle, after))
			}
		})
	}
}

// whyReclaimed is the reason of one that is reset.
func whyReclaimed(e *limit.Excess, idle, after time.Duration) error {
	return Fail(OverLimit, hint.Errorf(
		"raise --max-connections, send something more often than --reclaim-idle says, or change that; 0 resets no idle ones",
		"others had no place, %s had %d of the daemon's %d connections where %d were its fair share, and no byte had moved on this one for %s (--reclaim-idle %s)",
		e.Share.Name, e.Has, e.Of, e.Fair, idle.Round(time.Millisecond), after))
}

func (r *reclaimer) idleFor(client, upstream int) (time.Duration, error) {
	if r.idle != nil {
		return r.idle(client, upstream)
	}
	return socket.IdleForFD(client, upstream)
}
