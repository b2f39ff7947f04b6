package proxy

import (
	"slices"
	"time"
)

// Share is what one client has of a Limit that several share.
//
// While more places are free than the reserve has, anybody takes them. Of the first half
// of the reserve a client takes a place as long as it has fewer than its part of that half,
// among those who have a place or wait for one; of the second half, as long as it has
// fewer than its part among all who may come (Limit.SetClients), but always one. So a
// client that takes what it can get leaves the reserve to others, and each of them is sure
// of its part of it at once, in whichever order they come. What is given back beyond the
// reserve goes to the one of those who wait that has the fewest (max-min fairness): the
// greediest waits. A rate is given in turns.
//
// The queue is shared likewise: when it is full, the client that has the most in it makes
// room for one that has fewer. Make one with Limit.Share.
type Share struct {
	limit    *Limit
	name     string
	stranger bool // nobody's: the second half of the reserve is for clients that are known

	// What follows is guarded by limit.mu.
	open    int
	waiting []*waiter // first come, first served
	served  uint64    // which of the limit's grants was the last to it
}

// Idle reports whether nobody has a place of it or waits for one.
func (s *Share) Idle() bool {
	s.limit.mu.Lock()
	defer s.limit.mu.Unlock()
	return !s.busy()
}

func (s *Share) busy() bool { return s.open > 0 || len(s.waiting) > 0 }

// may reports whether there is a place for s. It is called with mu held, as all below.
func (l *Limit) may(s *Share) bool {
	b := &l.bounds
	switch {
	case b.Open <= 0 || l.open < b.Open-b.Reserve:
		return true
	case l.open >= b.Open:
		return false
	}
	second, active := b.Reserve/2, l.active
	if !s.busy() {
		active++
	}
	if l.open < b.Open-second {
		return s.open < max(1, (b.Reserve-second)/active)
	}
	return !s.stranger && s.open < max(1, second/max(active, l.clients))
}

// take takes a place for s at once, unless somebody waits who comes first.
func (l *Limit) take(s *Share) bool {
	// Who waits for a place beyond the reserve does not stand in the way to the reserve.
	inWay := l.waiting > 0 && (l.rate != nil || len(s.waiting) > 0 || l.open < l.bounds.Open-l.bounds.Reserve)
	if inWay || !l.may(s) || l.rate != nil && !l.rate.Allow() {
		return false
	}
	l.grant(s)
	return true
}

// tryMore takes another place for a connection of s that has one already, for a while: no
// rate counts that.
func (s *Share) tryMore() bool {
	l := s.limit
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 || !l.may(s) {
		return false
	}
	l.grant(s)
	return true
}

func (l *Limit) grant(s *Share) {
	if !s.busy() {
		l.active++
	}
	l.grants++
	l.open++
	s.open++
	s.served = l.grants
}

func (l *Limit) release(s *Share) {
	l.open--
	s.open--
	if !s.busy() {
		l.active--
	}
	if l.waiting > 0 {
		l.admit()
	}
}

// join puts w into the queue.
func (l *Limit) join(s *Share, w *waiter) {
	if !s.busy() {
		l.active++
	}
	if len(s.waiting) == 0 {
		l.queue = append(l.queue, s)
	}
	s.waiting = append(s.waiting, w)
	l.waiting++
}

// part takes w out of the queue.
func (l *Limit) part(s *Share, w *waiter) {
	if w == s.waiting[0] {
		s.waiting = s.waiting[1:]
	} else {
		s.waiting = slices.DeleteFunc(s.waiting, func(other *waiter) bool { return other == w })
	}
	l.waiting--
	if len(s.waiting) == 0 {
		s.waiting = nil
		l.queue = slices.DeleteFunc(l.queue, func(other *Share) bool { return other == s })
	}
	if !s.busy() {
		l.active--
	}
}

// makeRoom turns away the last one of the client that has the most in the queue, if s has
// fewer there than that would have then.
func (l *Limit) makeRoom(s *Share) bool {
	var most *Share
	for _, other := range l.queue {
		if most == nil || len(other.waiting) > len(most.waiting) {
			most = other
		}
	}
	if most == nil || len(most.waiting) <= len(s.waiting)+1 {
		return false
	}
	last := most.waiting[len(most.waiting)-1]
	last.away = true
	l.part(most, last)
	close(last.done)
	return true
}

// admit gives places to those who wait.
func (l *Limit) admit() {
	for l.waiting > 0 && !l.due {
		s := l.next()
		if s == nil {
			return
		}
		if l.rate != nil {
			if delay := l.rate.Reserve().Delay(); delay > 0 {
				l.due = true
				time.AfterFunc(delay, l.inTime)
				return
			}
		}
		l.call(s)
	}
}

// inTime gives a place for which the rate has been reserved.
func (l *Limit) inTime() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = false
	if s := l.next(); s != nil {
		l.call(s)
	}
	l.admit()
}

// call gives a place to the first of s who waits.
func (l *Limit) call(s *Share) {
	w := s.waiting[0]
	l.grant(s)
	l.part(s, w)
	close(w.done)
}

// next is who is to get the next place; nil when there is none for anybody who waits.
func (l *Limit) next() *Share {
	var best *Share
	for _, s := range l.queue {
		if l.may(s) && (best == nil || l.before(s, best)) {
			best = s
		}
	}
	return best
}

// before reports whether a comes before b. Where places are short, that is who has fewer;
// where the rate is, they take turns, or one that holds many for long would get no more
// beside one whose connections are short.
func (l *Limit) before(a, b *Share) bool {
	const nearlyAll = 8 // all but an eighth
	free := l.bounds.Open - l.bounds.Reserve - l.open
	placesShort := l.bounds.Open > 0 && (l.rate == nil || free < l.bounds.Open/nearlyAll)
	if placesShort && a.open != b.open {
		return a.open < b.open
	}
	return a.served < b.served
}
