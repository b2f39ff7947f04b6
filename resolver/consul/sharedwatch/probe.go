package sharedwatch

import "time"

// probeInterval bounds the rate of a watch's probes: from one announcement to the
// next there is this much time for each subscriber.
const probeInterval = time.Millisecond

// announce tells of changes: it searches for the subscribers that are concerned, and then has all
// probed, at the first change at once, at the next when there was the time for that.
func (w *sharedWatch) announce() {
	var search, all turn
	due := time.NewTimer(0)
	defer due.Stop()
	<-due.C
	for {
		select {
		case <-w.hints:
			search.wanted, all.wanted = true, true
		case <-due.C:
		case <-w.ctx.Done():
			return
		}
		if began := time.Now(); search.comes(began) {
			rest := time.Duration(0)
			if !w.search() {
				rest = NoSearchFor
			}
			search.rest(max(searchInterval, searchShare*time.Since(began), rest))
		}
		if all.comes(time.Now()) {
			all.rest(time.Duration(w.probeAll()) * probeInterval)
		}
		if next, ok := earlier(&search, &all); ok {
			due.Reset(time.Until(next))
		}
	}
}

// probeAll has all subscribers probed, and returns how many there are. Those come last that
// have no instance, and of a service that the catalogue does not list, nothing has come.
func (w *sharedWatch) probeAll() (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var last []*Subscription
	for name, of := range w.subscribers {
		for s := range of {
			switch {
			case len(s.instances) > 0:
				w.enqueue(s)
			case w.listed == nil || w.listed[name]:
				last = append(last, s)
			}
		}
	}
	w.enqueue(last...)
	return w.count
}

// enqueue has subscribers probed, in turn. It is called with mu held.
func (w *sharedWatch) enqueue(subscribers ...*Subscription) {
	if w.ctx.Err() != nil { // it is ending, and waits for those that probe
		return
	}
	for _, s := range subscribers {
		if !s.queued {
			s.queued = true
			w.queue = append(w.queue, s)
		}
	}
	for w.probing < min(len(w.queue), w.Source.Probes()) {
		w.probing++
		w.running.Go(w.probeQueued)
	}
}

// probeQueued probes subscribers as long as there are any to be.
func (w *sharedWatch) probeQueued() {
	for {
		w.mu.Lock()
		if len(w.queue) == 0 || w.ctx.Err() != nil {
			w.probing--
			w.queue = nil
			w.mu.Unlock()
			return
		}
		s := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		s.queued = false
		left := s.left
		w.mu.Unlock()
		if left {
			continue
		}
		index, err := s.probe(w.ctx)
		w.mu.Lock()
		moved := index != s.index
		w.mu.Unlock()
		if w.ctx.Err() == nil && (err != nil || moved) {
			s.tell(err)
		}
	}
}

// turn is something to be done now and then.
type turn struct {
	wanted bool
	next   time.Time // not before
}

// comes reports whether it is to be done now, and takes note that it is.
func (t *turn) comes(now time.Time) bool {
	if !t.wanted || now.Before(t.next) {
		return false
	}
	t.wanted = false
	return true
}

func (t *turn) rest(d time.Duration) { t.next = time.Now().Add(d) }

// earlier is when the first of two that are wanted is to be done; false if none is.
func earlier(a, b *turn) (next time.Time, ok bool) {
	switch {
	case a.wanted && (!b.wanted || a.next.Before(b.next)):
		return a.next, true
	case b.wanted:
		return b.next, true
	}
	return time.Time{}, false
}
