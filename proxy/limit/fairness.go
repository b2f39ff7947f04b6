package limit

import (
	"slices"
	"time"
)

// Share is what one client has of a Limit that several share.
//
// While more places are free than the reserve has, anybody takes them. The reserve is no
// larger than the clients that may come have a use for (Limit.SetClients). Half of it is
// owed: each of those clients is sure of its part of that half, whatever others have and in
// whichever order they come. Of what is free and not owed to others a client takes a place
// as long as it has fewer than that is, so one that takes what it can get leaves the reserve
// to others. A place that is given back goes to the client that has the fewest of those that wait
// (max-min fairness): the greediest waits. A rate is given in turns.
//
// The queue is shared likewise: when it is full, the client that has the most in it makes
// room for one that has fewer. Make one with Limit.Share.
type Share struct {
	limit     *Limit
	Name      string
	anonymous bool // nobody's: nothing is owed to it

	// What follows is guarded by limit.mu.
	before, next *Share // of those that have a place

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
	case b.Open <= 0 || l.open < b.Open-l.reserve:
		return true
	case l.open >= b.Open:
		return false
	}
	if s.open < l.sure && !s.anonymous {
		return true
	}
	return s.open < b.Open-l.open-l.owed()
}

// owed is how many places have to be left for clients to get what each of them is sure of.
func (l *Limit) owed() int { return max(0, l.sure*l.clients-l.paid) }

// mostSure is how many places a client is sure of at most: with few clients more than that
// would be kept for nobody.
const mostSure = 64

// setSure makes it anew how many places each client is sure of.
func (l *Limit) setSure() {
	l.reserve = l.bounds.Reserve
	if l.clients > 0 {
		l.reserve = min(l.reserve, 2*mostSure*l.clients)
	}
	l.sure = l.reserve / 2 / max(1, l.clients)
	if l.reserve > 0 {
		l.sure = max(1, l.sure)
	}
	l.paid = 0
	for s := l.have; s != nil; s = s.next {
		if !s.anonymous {
			l.paid += min(s.open, l.sure)
		}
	}
}

// take takes a place for s at once, unless another one waits that comes first.
func (l *Limit) take(s *Share) bool {
	// A connection that waits for a place beyond the reserve does not stand in the way to the reserve.
	inWay := l.waiting > 0 && (l.rate != nil || len(s.waiting) > 0 || l.open < l.bounds.Open-l.reserve)
	if inWay || !l.may(s) || l.rate != nil && !l.rate.Allow() {
		return false
	}
	l.grant(s)
	return true
}

// TryMore takes another place for a connection of s that has one already, for a while: no
// rate counts that.
func (s *Share) TryMore() bool {
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
	if s.open == 0 {
		l.link(s)
	}
	if s.open < l.sure && !s.anonymous {
		l.paid++
	}
	l.grants++
	l.open++
	s.open++
	s.served = l.grants
}

func (l *Limit) release(s *Share) {
	l.open--
	s.open--
	if s.open < l.sure && !s.anonymous {
		l.paid--
	}
	if s.open == 0 {
		l.unlink(s)
	}
	if l.waiting > 0 {
		l.admit()
	}
}

// link adds s to those that have a place, unlink takes it out.
func (l *Limit) link(s *Share) {
	s.next = l.have
	if s.next != nil {
		s.next.before = s
	}
	l.have = s
}

func (l *Limit) unlink(s *Share) {
	if s.before == nil {
		l.have = s.next
	} else {
		s.before.next = s.next
	}
	if s.next != nil {
		s.next.before = s.before
	}
	s.before, s.next = nil, nil
}

// join puts w into the queue.
func (l *Limit) join(s *Share, w *waiter) {
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
}

// full reports whether there is no room in the queue for s, and which client would have to make some:
// the client that has the most in it, if s has fewer there than that would have then.
func (l *Limit) full(s *Share) (full bool, most *Share) {
	if l.waiting < l.bounds.Queue {
		return false, nil
	}
	for _, other := range l.queue {
		if most == nil || len(other.waiting) > len(most.waiting) {
			most = other
		}
	}
	if most == nil || len(most.waiting) <= len(s.waiting)+1 {
		return true, nil
	}
	return true, most
}

// makeRoom turns away the last one of the client that has to make room for s in the queue, and
// reports whether there is some.
func (l *Limit) makeRoom(s *Share) bool {
	full, most := l.full(s)
	if !full || most == nil {
		return !full
	}
	last := most.waiting[len(most.waiting)-1]
	last.away = true
	l.part(most, last)
	close(last.done)
	return true
}

// Hopeless is why a connection of s would be turned away that cannot have a place at once;
// nil if it may wait.
func (s *Share) Hopeless() error {
	l := s.limit
	l.mu.Lock()
	defer l.mu.Unlock()
	if full, most := l.full(s); full && most == nil && !l.may(s) {
		l.lack(s, true)
		return l.noRoom(s)
	}
	return nil
}

func (l *Limit) noRoom(s *Share) error {
	return l.over(s, "no place is left in its queue of %d", l.bounds.Queue)
}

// admit gives places to those that wait.
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

// call gives a place to the first of s that waits.
func (l *Limit) call(s *Share) {
	w := s.waiting[0]
	l.grant(s)
	l.part(s, w)
	close(w.done)
}

// next is the share that is to get the next place; nil when there is none for any that waits.
func (l *Limit) next() *Share {
	var best *Share
	for _, s := range l.queue {
		if l.may(s) && (best == nil || l.precedes(s, best)) {
			best = s
		}
	}
	return best
}

// precedes reports whether a comes before b. Where places are short, that is the one that has fewer;
// where the rate is, they take turns, or one that holds many for long would get no more
// beside one whose connections are short.
func (l *Limit) precedes(a, b *Share) bool {
	const nearlyAll = 8 // all but an eighth
	free := l.bounds.Open - l.reserve - l.open
	placesShort := l.bounds.Open > 0 && (l.rate == nil || free < l.bounds.Open/nearlyAll)
	if placesShort && a.open != b.open {
		return a.open < b.open
	}
	return a.served < b.served
}
