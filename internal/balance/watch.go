package balance

// Watcher is told what the active check says of an endpoint, for a connection to it. Its
// methods are called by one goroutine at a time, and must neither wait nor call Watch.
type Watcher interface {
	// Unhealthy says that so many checks in a row have failed as Check.Fall says, the last
	// for why. It is not called for a first result that is bad: that keeps new connections
	// away, and is too little to end others.
	Unhealthy(why string)
	// Healthy says that the endpoint, of which that was said, is well again.
	Healthy()
}

// Watch tells w of what the check of the endpoint says from now on, until stop is called, and
// has the check run until then, whether or not somebody chooses from the pool. If the endpoint
// was found dead since it was chosen, it tells so at once: the connection was on its way to it.
// One that was chosen although it was dead already, for want of others, is told of the next time.
// Without a check Watch does nothing.
func (u *Use) Watch(w Watcher) (stop func()) {
	c, p := u.check, u.pool
	if c == nil {
		return func() {}
	}
	p.watched.Add(1)
	c.mu.Lock()
	if c.watchers == nil {
		c.watchers = make(map[Watcher]uint32)
	}
	c.watchers[w] = u.deaths
	c.mu.Unlock()
	if c.deaths.Load() != u.deaths {
		c.catchUp(w)
	}
	return func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
		p.watched.Add(-1)
	}
}

// verdictChange is what a result means for the connections to an endpoint.
type verdictChange int

const (
	nothing verdictChange = iota
	died
	revived
)

// count counts the bad results in a row, and says what they mean. It is called with mu held,
// after the verdict was changed.
func (c *checker) count(bad, first bool) verdictChange {
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
			c.deaths.Add(1)
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
func (c *checker) tell(change verdictChange, why string) {
	if change == nothing {
		return
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	deaths := c.deaths.Load()
	var all []Watcher
	c.mu.Lock()
	for w, known := range c.watchers {
		if change == died && known == deaths {
			continue // catchUp has told it
		}
		if all = append(all, w); change == died {
			c.watchers[w] = deaths
		}
	}
	c.mu.Unlock()
	for _, w := range all {
		if change == died {
			w.Unhealthy(why)
		} else {
			w.Healthy()
		}
	}
}

// catchUp tells w that the endpoint is dead, if it still is and w has not been told.
func (c *checker) catchUp(w Watcher) {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.mu.Lock()
	deaths := c.deaths.Load()
	known, watches := c.watchers[w]
	tell, why := watches && c.dead && known != deaths, c.cause
	if tell {
		c.watchers[w] = deaths
	}
	c.mu.Unlock()
	if tell {
		w.Unhealthy(why)
	}
}
