package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// probeInterval bounds the rate of a crowd's probes: from one announcement to the
	// next there is this much time for each member.
	probeInterval = time.Millisecond

	// crowdRetry is the pause after a crowd's own query has failed.
	crowdRetry = time.Second

	// listShare is how many times as long as the reading of a list took the next query waits: a
	// list of thousands of checks, of which one changes all the time, would be read all the time.
	listShare = 20
	// mostListed bounds how many objects of a list are taken in. A list that has more only says
	// that something has changed.
	mostListed = 1 << 18
)

// crowdPaths are what a crowd's queries ask. Critical and warning checks are few,
// and one that changes to or from passing changes one of these lists.
var crowdPaths = []string{servicesPath, "/v1/health/state/critical", "/v1/health/state/warning"}

const servicesPath = "/v1/catalog/services"

// crowd is for the watches of services that have no lane. Three blocking queries
// tell it that something in their scope has changed: an instance came, went
// or was registered anew; one became critical or ceased to be; or it began or ended
// to warn. The members that are sure to be concerned are told at once (see suspects.go). Then
// a few goroutines look for each member, by a request that costs little, whether it is concerned;
// the members themselves wait, and are told.
//
// It starts with its first member, and goes on for a while when the last has left: its
// queries would count at the agent all the same (see lanes), and those of the next crowd
// would count beside them.
type crowd struct {
	agent                *agent
	scope                scope
	wait, slack, timeout time.Duration
	lookFor              time.Duration
	ctx                  context.Context //nolint:containedctx // of what it asks: it serves many watches, and outlives each of them
	stop                 context.CancelFunc
	running              sync.WaitGroup
	hints                chan struct{} // holds one while a change is to be announced

	mu      sync.Mutex
	members map[string]map[*member]struct{} // by the name of the service, in lower case, of which Consul takes any
	count   int                             // of them
	left    *time.Timer                     // ends the crowd; nil while there are members
	queue   []*member                       // to be probed, in this order
	probing int                             // how many goroutines do that
	listed  map[string]bool                 // the services there are, likewise; nil if that is not known
}

// member is one watch in a crowd.
type member struct {
	crowd    *crowd
	question *question
	service  string // its name, in lower case
	// news holds one: nil when there may be another answer, or why the agent could not be asked.
	news chan error

	// Of the last answer, under crowd.mu:
	index     uint64
	instances []registration

	queued bool // under crowd.mu, too
	left   bool // likewise
}

// join makes a member of the crowd of a scope, which starts with its first.
func (a *agent) join(q *question, config Config) *member {
	s := q.scope
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.crowds[s]
	if c == nil {
		c = &crowd{
			agent: a, scope: s, wait: config.Wait, slack: config.Slack, timeout: config.Timeout, lookFor: config.lookFor,
			hints: make(chan struct{}, 1), members: map[string]map[*member]struct{}{},
		}
		a.crowds[s] = c
		c.ctx, c.stop = context.WithCancel(context.Background())
		for _, path := range crowdPaths {
			c.running.Go(func() { c.listen(path) })
		}
		c.running.Go(c.announce)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &member{crowd: c, question: q, service: strings.ToLower(q.service), news: make(chan error, 1)}
	if c.members[m.service] == nil {
		c.members[m.service] = map[*member]struct{}{}
	}
	c.members[m.service][m] = struct{}{}
	c.count++
	if c.left != nil {
		c.left.Stop()
		c.left = nil
	}
	return m
}

// leave ends the membership. A nil member has none.
func (m *member) leave() {
	if m == nil {
		return
	}
	c := m.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	m.left = true
	of := c.members[m.service]
	if delete(of, m); len(of) == 0 {
		delete(c.members, m.service)
	}
	if c.count--; c.count == 0 {
		c.left = time.AfterFunc(longest(c.wait), c.endIfLeft)
	}
}

// endIfLeft ends the crowd, unless somebody has joined meanwhile.
func (c *crowd) endIfLeft() {
	c.agent.mu.Lock()
	c.mu.Lock()
	left := c.count == 0
	c.mu.Unlock()
	if left && c.agent.crowds[c.scope] == c {
		delete(c.agent.crowds, c.scope)
	}
	c.agent.mu.Unlock()
	if left {
		c.end()
	}
}

// end ends it and waits for that.
func (c *crowd) end() {
	c.mu.Lock()
	if c.left != nil {
		c.left.Stop()
	}
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
}

// closeCrowds ends those that no watch is a member of any more.
func (a *agent) closeCrowds() {
	a.mu.Lock()
	crowds := slices.Collect(maps.Values(a.crowds))
	clear(a.crowds)
	a.mu.Unlock()
	for _, c := range crowds {
		c.end()
	}
}

// answered says what the member's watch knows. Between its last answer and its joining anything
// may have happened, so the first time it is probed.
func (m *member) answered(index uint64, instances []registration) {
	c := m.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	first := m.index == 0
	m.index, m.instances = index, instances
	if first {
		c.probe(m)
	}
}

// tell has the member's watch ask, or fail with err.
func (m *member) tell(err error) {
	select {
	case m.news <- err:
	default:
	}
}

// probe has members looked after, in turn. It is called with mu held.
func (c *crowd) probe(members ...*member) {
	if c.ctx.Err() != nil { // it is ending, and waits for those that probe
		return
	}
	for _, m := range members {
		if !m.queued {
			m.queued = true
			c.queue = append(c.queue, m)
		}
	}
	for c.probing < min(len(c.queue), cap(c.agent.lanes.probes)) {
		c.probing++
		c.running.Go(c.probeQueued)
	}
}

// probeQueued probes members as long as there are any to be.
func (c *crowd) probeQueued() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 || c.ctx.Err() != nil {
			c.probing--
			c.queue = nil
			c.mu.Unlock()
			return
		}
		m := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		m.queued = false
		left := m.left
		c.mu.Unlock()
		if left {
			continue
		}
		index, err := c.agent.probe(c.ctx, m.question, c.timeout)
		c.mu.Lock()
		moved := index != m.index
		c.mu.Unlock()
		if c.ctx.Err() == nil && (err != nil || moved) {
			m.tell(err)
		}
	}
}

// listen hints at every change of what path asks. Its first answer is one, for what
// happened before is not in it; so is a failure, for the members ask the same agent
// and tell what is wrong with it.
func (c *crowd) listen(path string) {
	var index uint64
	var before failingChecks
	for {
		var names crowdListing[map[string]ignored]
		var checks crowdListing[failingChecks]
		var into any = &checks
		if path == servicesPath {
			into = &names
		}
		began := time.Now()
		got, err := c.query(path, index, into)
		if c.ctx.Err() != nil {
			return
		}
		switch {
		case err != nil:
			if path == servicesPath {
				c.setListed(nil)
			}
		case path == servicesPath:
			c.setListed(names.of)
		default:
			if index != 0 && checks.of != nil && before != nil {
				c.tell(before.changed(checks.of))
			}
			before = checks.of
		}
		if err != nil || index == 0 || got != index {
			select {
			case c.hints <- struct{}{}:
			default:
			}
		}
		rest := listShare * (names.took + checks.took)
		if err == nil {
			index = nextIndex(index, got)
		} else {
			index = 0
			rest = max(crowdRetry, min(time.Since(began), c.timeout)) // an answer that is too long takes its time, too
		}
		if !pause(c.ctx, rest) {
			return
		}
	}
}

func (c *crowd) query(path string, index uint64, into any) (uint64, error) {
	ctx, cancel := context.WithTimeout(c.ctx, longest(c.wait)+c.slack)
	defer cancel()
	options := &api.QueryOptions{WaitIndex: index, WaitTime: c.wait}
	c.scope.apply(options)
	meta, err := c.agent.client.Raw().Query(path, into, options.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, nil
}

// crowdListing is what a crowd's query answers. What cannot be read, or is too long, is zero: that
// something has changed the index says.
type crowdListing[T any] struct {
	of   T
	took time.Duration // to read it
}

// UnmarshalJSON is json.Unmarshaler's. It does not fail.
func (l *crowdListing[T]) UnmarshalJSON(text []byte) error {
	began := time.Now()
	var of T
	if bytes.Count(text, []byte("{"))+bytes.Count(text, []byte("[")) <= mostListed && json.Unmarshal(text, &of) == nil {
		l.of = of
	}
	l.took = time.Since(began)
	return nil
}

// ignored is a JSON value that nobody wants to know.
type ignored struct{}

// UnmarshalJSON is json.Unmarshaler's.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

// setListed takes in which services there are. Whoever waits for one that is there now, and has
// seen no instance of it, is told.
func (c *crowd) setListed(names map[string]ignored) {
	var now map[string]bool
	if names != nil {
		now = make(map[string]bool, len(names))
	}
	for name := range names {
		now[strings.ToLower(name)] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.listed
	c.listed = now
	if before == nil {
		return
	}
	for name := range now {
		if before[name] {
			continue
		}
		for m := range c.members[name] {
			m.tell(nil)
		}
	}
}

// announce tells of changes: the members that are found to be concerned, and then has all
// looked after, at the first change at once, at the next when there was the time for that.
func (c *crowd) announce() {
	var look, all turn
	due := time.NewTimer(0)
	defer due.Stop()
	<-due.C
	for {
		select {
		case <-c.hints:
			look.wanted, all.wanted = true, true
		case <-due.C:
		case <-c.ctx.Done():
			return
		}
		if began := time.Now(); look.comes(began) {
			rest := time.Duration(0)
			if !c.findSuspects() {
				rest = noLookFor
			}
			look.rest(max(lookInterval, lookShare*time.Since(began), rest))
		}
		if all.comes(time.Now()) {
			all.rest(time.Duration(c.probeAll()) * probeInterval)
		}
		if next, ok := earlier(&look, &all); ok {
			due.Reset(time.Until(next))
		}
	}
}

// probeAll has all members looked after, and returns how many there are. Those come last that
// have no instance, and of a service that the catalogue does not list, nothing has come.
func (c *crowd) probeAll() (count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last []*member
	for name, of := range c.members {
		for m := range of {
			switch {
			case len(m.instances) > 0:
				c.probe(m)
			case c.listed == nil || c.listed[name]:
				last = append(last, m)
			}
		}
	}
	c.probe(last...)
	return c.count
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
