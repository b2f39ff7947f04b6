package limit

// shortage is what a Limit notes of those who have no place while somebody asks for that:
// see Limit.Watch.
type shortage struct {
	begin   func()         // called once when places get short
	running bool           // it was called, and looks at the shortage from time to time
	news    bool           // somebody had no place since the last look
	looks   uint           // so far
	away    map[*Share]int // connections turned away since the last
}

// Excess is what the client with the most connections has more than its share, of which
// others are in need.
type Excess struct {
	Share *Share
	Has   int // its connections
	Fair  int // how many it would have if all that want some had the same
	Of    int // how many there may be in all
	Want  int // how many it is to give
}

// Watch has begin called, in a goroutine of its own, when somebody has no place, and not
// again until excess has said that it was the last look; nil calls nobody.
func (l *Limit) Watch(begin func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.short.begin = begin
	if begin != nil && l.short.away == nil {
		l.short.away = map[*Share]int{}
	}
}

// Watched reports whether somebody lacks a place and begin, which Watch was given, looks at that.
func (l *Limit) Watched() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.short.running
}

// lack notes that a connection of s has no place: it waits, or is turned away. It is
// called with mu held.
func (l *Limit) lack(s *Share, away bool) {
	if l.short.begin == nil || s.anonymous {
		return
	}
	l.short.news = true
	if away {
		l.short.away[s]++
	}
	if !l.short.running {
		l.short.running = true
		go l.short.begin()
	}
}

// Excess looks at the shortage. last says that there is none, nor was since the look
// before. It takes one walk over the clients that have a place or lack one.
func (l *Limit) Excess() (e Excess, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.short.begin != nil {
		e = l.greediest()
	}
	last = l.short.begin == nil || !l.short.news && e.Want == 0
	l.short.running, l.short.news = !last, false
	l.short.looks++
	clear(l.short.away)
	return e, last
}

// need is how many connections of a client lack a place.
type need struct {
	share *Share
	n     int
}

// needs are those of all clients.
func (l *Limit) needs() []need {
	all := make([]need, 0, len(l.queue)+len(l.short.away))
	for _, s := range l.queue {
		all = append(all, need{s, len(s.waiting) + l.short.away[s]})
	}
	for s, n := range l.short.away {
		if len(s.waiting) == 0 {
			all = append(all, need{s, n})
		}
	}
	return all
}

// greediest is the client that has the most, and what it is to give. Nobody is given more than a fair
// share by that, and nobody is left with less.
func (l *Limit) greediest() (e Excess) {
	if l.bounds.Open <= 0 {
		return e
	}
	clients, needs := 0, l.needs()
	for s := l.have; s != nil; s = s.next {
		if s.anonymous {
			continue
		}
		clients++
		if s != l.alone && s.open > e.Has { // that one is nobody's in particular
			e.Share, e.Has = s, s.open
		}
	}
	for _, n := range needs {
		if n.share.open == 0 {
			clients++
		}
	}
	e.Of, e.Fair = l.bounds.Open, max(l.sure, l.bounds.Open/max(1, clients))
	e.Want = max(0, min(l.missing(needs, e.Fair), e.Has-e.Fair))
	return e
}

// missing is how many places have to be given back for those who are in need to have
// them, as far as each has no more than is fair: may says yes to the last one then.
func (l *Limit) missing(needs []need, fair int) (most int) {
	wanted, paid := 0, l.paid
	for i := range needs {
		n := &needs[i]
		n.n = max(0, min(n.n, fair-n.share.open))
		wanted += n.n
		paid += max(0, min(n.n, l.sure-n.share.open))
	}
	owed := max(0, l.sure*l.clients-paid)
	before := l.open + wanted - 1 // the last one
	for _, n := range needs {
		if n.n == 0 {
			continue
		}
		has := n.share.open + n.n - 1 // likewise
		lacks := min(before+l.reserve, before+has+owed) + 1 - l.bounds.Open
		if has < l.sure {
			lacks = min(lacks, before+1-l.bounds.Open)
		}
		most = max(most, lacks)
	}
	return most
}
