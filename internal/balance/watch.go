package balance

import (
	"maps"
	"slices"
)

// Watcher is told what the active check says of an endpoint, for a connection to it. Its
// methods are called by one goroutine at a time, and must not wait.
type Watcher interface {
	// Unhealthy says that so many checks in a row have failed as Check.Fall says, the last
	// for why. It is not called for a first result that is bad: that keeps new connections
	// away, and is too little to end others.
	Unhealthy(why string)
	// Healthy says that the endpoint, of which that was said, is well again.
	Healthy()
}

// Watch tells w of what the check of the endpoint says from now on, until stop is called, and
// has the check run until then, whether or not somebody chooses from the pool. Without a check
// it does nothing.
func (u *Use) Watch(w Watcher) (stop func()) {
	c, p := u.check, u.pool
	if c == nil {
		return func() {}
	}
	p.watched.Add(1)
	c.mu.Lock()
	if c.watchers == nil {
		c.watchers = make(map[Watcher]struct{})
	}
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
		p.watched.Add(-1)
	}
}

// news is what a result means for the connections to an endpoint.
type news int

const (
	nothing news = iota
	died
	revived
)

// count counts the bad results in a row, and says what they mean. It is called with mu held,
// after the verdict was changed.
func (c *checker) count(bad, first bool) news {
	if first {
		c.bad = 0
	}
	fall := c.check.Fall
	if fall <= 0 {
		fall = defaultFall
	}
	switch {
	case bad:
		if c.bad++; c.bad >= fall && !c.dead {
			c.dead = true
			return died
		}
	default:
		c.bad = 0
		if c.dead && c.verdict.Load() == up {
			c.dead = false
			return revived
		}
	}
	return nothing
}

// tell passes on what a result means to those that watch.
func (c *checker) tell(n news, why string) {
	if n == nothing {
		return
	}
	c.mu.Lock()
	all := slices.Collect(maps.Keys(c.watchers))
	c.mu.Unlock()
	for _, w := range all {
		if n == died {
			w.Unhealthy(why)
		} else {
			w.Healthy()
		}
	}
}
