// Package outage spaces out the questions of watches that fail together: a registry that is away
// fails all that ask it, and the first of them that is answered tells the others.
package outage

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

// Registry is where several watches ask: the configured registry of a scheme, or a server that
// their targets name. It fails for all of them.
type Registry struct {
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

// Registries are those of the watches that run, by what the queries of one have in common. The
// zero value is ready.
type Registries[K comparable] struct {
	mu  sync.Mutex
	all map[K]*Registry
}

// Enter counts a watch of the registry of key. leave is called when the watch ends.
func (r *Registries[K]) Enter(key K) (at *Registry, leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = r.all[key]
	if at == nil {
		if r.all == nil {
			r.all = map[K]*Registry{}
		}
		at = &Registry{recovered: make(chan struct{})}
		r.all[key] = at
	}
	at.count(1)
	return at, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if at.count(-1) == 0 {
			delete(r.all, key)
		}
	}
}

// count counts a watch more or less, and returns how many there are.
func (r *Registry) count(more int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches += more
	return r.watches
}

// Fail notes that a watch that did not fail does, and returns how long it may pause at most,
// and what is closed when another watch of the registry is answered: it is already if that was
// after its question, asked then.
func (r *Registry) Fail(before bool, asked time.Time, longest time.Duration) (pause time.Duration, recovered <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !before {
		r.failing++
	}
	if r.failing < r.watches { // others are well: it fails for a reason of its own
		pause = longest
	} else {
		r.away = true
		pause = min(longest, max(shortBackoff, r.apart()))
	}
	if before && asked.Before(r.told) {
		return pause, atOnce
	}
	return pause, r.recovered
}

// apart is how much time the questions of those that fail are to take.
func (r *Registry) apart() time.Duration { return time.Duration(r.failing) * eachFailing }

// Answer notes that a watch that failed has been answered, or has ended. The others are told
// only of the end of an outage: what a container names may fail and be answered as it likes.
func (r *Registry) Answer(well bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing--
	if now := time.Now(); well && r.away && now.Sub(r.told) >= max(tellEvery, r.apart()) {
		r.told, r.away = now, false
		close(r.recovered)
		r.recovered = make(chan struct{})
	}
}
