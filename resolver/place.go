package resolver

import (
	"sync"
	"time"
)

const (
	// shortBackoff is the longest pause of a few watches none of which can ask their
	// registry: what changed meanwhile is to be heard within 3 s of its return.
	shortBackoff = 2 * time.Second
	// eachFailing is how much longer that is for each of them, so that a registry that is
	// away is not asked by thousands at a time. The first that is answered tells the others.
	eachFailing = 20 * time.Millisecond
	// tellEvery is the least time between two such tellings, which is longer by eachFailing, too.
	tellEvery = time.Second
)

// place is where several watches ask: the configured registry of a scheme, or a server that
// their targets name. It fails for all of them.
type place struct {
	mu        sync.Mutex
	watches   int
	failing   int
	away      bool          // all of them have failed, and the others have not been told of an answer since
	recovered chan struct{} // closed when one that failed is answered, and replaced
	told      time.Time
}

// atOnce is what recovered is to a question that was asked before it was closed.
var atOnce = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// placeKey is what the queries of one place have in common.
type placeKey struct {
	scheme, server, host string
	port                 uint16
}

// placeOf is where q asks. The host of a query with a path is a registry's, any other one is
// the name that is asked for.
func placeOf(q Query) placeKey {
	key := placeKey{scheme: q.Scheme, server: q.Server}
	if q.Path != "" {
		key.host, key.port = q.Host, q.Port
	}
	return key
}

// places are those of the watches that run.
type places struct {
	mu  sync.Mutex
	all map[placeKey]*place
}

// enter counts a watch of q. leave is called when it ends.
func (p *places) enter(q Query) (at *place, leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := placeOf(q)
	at = p.all[key]
	if at == nil {
		if p.all == nil {
			p.all = map[placeKey]*place{}
		}
		at = &place{recovered: make(chan struct{})}
		p.all[key] = at
	}
	at.count(1)
	return at, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if at.count(-1) == 0 {
			delete(p.all, key)
		}
	}
}

// count counts a watch more or less, and returns how many there are.
func (p *place) count(more int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watches += more
	return p.watches
}

// fail notes that a watch that did not fail does, and returns how long it may pause at most,
// and what is closed when another one of the place is answered: it is already if that was
// after its question, asked then.
func (p *place) fail(before bool, asked time.Time, longest time.Duration) (pause time.Duration, recovered <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !before {
		p.failing++
	}
	if p.failing < p.watches { // others are well: it fails for a reason of its own
		pause = longest
	} else {
		p.away = true
		pause = min(longest, max(shortBackoff, p.apart()))
	}
	if before && asked.Before(p.told) {
		return pause, atOnce
	}
	return pause, p.recovered
}

// apart is how much time the questions of those that fail are to take.
func (p *place) apart() time.Duration { return time.Duration(p.failing) * eachFailing }

// answer notes that a watch that failed has been answered, or has ended. The others are told
// only of the end of an outage: what a container names may fail and be answered as it likes.
func (p *place) answer(well bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failing--
	if now := time.Now(); well && p.away && now.Sub(p.told) >= max(tellEvery, p.apart()) {
		p.told, p.away = now, false
		close(p.recovered)
		p.recovered = make(chan struct{})
	}
}
