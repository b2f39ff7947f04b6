package consul

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
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
)

// crowdPaths are what a crowd's queries ask. Critical and warning checks are few,
// and one that changes to or from passing changes one of these lists.
var crowdPaths = []string{servicesPath, "/v1/health/state/critical", "/v1/health/state/warning"}

const servicesPath = "/v1/catalog/services"

// crowd is for the watches of services that have no lane. Three blocking queries
// tell them all that something in their scope has changed: an instance came, went
// or was registered anew; one became critical or ceased to be; or it began or ended
// to warn. Those that are sure to be concerned are told at once (see suspects.go). Then each
// member looks, by a request that costs little, whether it is concerned.
//
// It starts with its first member, and goes on for a while when the last has left: its
// queries would count at the agent all the same (see lanes), and those of the next crowd
// would count beside them.
type crowd struct {
	agent       *agent
	scope       scope
	wait, slack time.Duration
	stop        context.CancelFunc
	running     sync.WaitGroup
	hints       chan struct{} // holds one while a change is to be announced

	mu      sync.Mutex
	members map[*member]struct{}
	left    *time.Timer   // ends the crowd; nil while there are members
	changed chan struct{} // closed at a change, and replaced
}

// member is one watch in a crowd.
type member struct {
	crowd     *crowd
	service   string                // its name
	instances func() []registration // those of the last answer
	told      chan struct{}         // holds one when it is concerned
	changed   <-chan struct{}
	index     uint64 // of its last probe
	probed    bool
}

// join makes a member of the crowd of a scope, which starts with its first.
func (a *agent) join(q question, config Config) *member {
	s := q.scope
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.crowds[s]
	if c == nil {
		c = &crowd{
			agent: a, scope: s, wait: config.Wait, slack: config.Slack,
			hints: make(chan struct{}, 1), changed: make(chan struct{}), members: map[*member]struct{}{},
		}
		a.crowds[s] = c
		var ctx context.Context
		ctx, c.stop = context.WithCancel(context.Background()) // it serves many watches, and outlives each of them
		for _, path := range crowdPaths {
			c.running.Go(func() { c.listen(ctx, path) })
		}
		c.running.Go(func() { c.announce(ctx) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &member{crowd: c, service: q.service, instances: q.instances, told: make(chan struct{}, 1), changed: c.changed}
	c.members[m] = struct{}{}
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
	delete(c.members, m)
	if len(c.members) == 0 {
		c.left = time.AfterFunc(longest(c.wait), c.endIfLeft)
	}
}

// endIfLeft ends the crowd, unless somebody has joined meanwhile.
func (c *crowd) endIfLeft() {
	c.agent.mu.Lock()
	c.mu.Lock()
	left := len(c.members) == 0
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

// lookOut turns to the next change. What happens from now on is announced.
func (m *member) lookOut() {
	m.crowd.mu.Lock()
	defer m.crowd.mu.Unlock()
	m.changed = m.crowd.changed
}

// moved takes in the index of a probe and says whether it is another than the last
// one's. The first counts as one: between a watch's last answer and its joining
// anything may have happened.
func (m *member) moved(index uint64) bool {
	moved := !m.probed || index != m.index
	m.index, m.probed = index, true
	return moved
}

// listen hints at every change of what path asks. Its first answer is one, for what
// happened before is not in it; so is a failure, for the members ask the same agent
// and tell what is wrong with it.
func (c *crowd) listen(ctx context.Context, path string) {
	var index uint64
	var before failingChecks
	for {
		var checks failingChecks
		got, err := c.query(ctx, path, index, &checks)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if index != 0 {
				c.tell(before.changed(checks))
			}
			before = checks
		}
		if err != nil || index == 0 || got != index {
			select {
			case c.hints <- struct{}{}:
			default:
			}
		}
		if err == nil {
			index = nextIndex(index, got)
			continue
		}
		index = 0
		if !pause(ctx, crowdRetry) {
			return
		}
	}
}

func (c *crowd) query(ctx context.Context, path string, index uint64, checks *failingChecks) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, longest(c.wait)+c.slack)
	defer cancel()
	options := &api.QueryOptions{WaitIndex: index, WaitTime: c.wait}
	c.scope.apply(options)
	var into any = new(json.RawMessage) // names and tags, of no use here
	if path != servicesPath {
		into = checks
	}
	meta, err := c.agent.client.Raw().Query(path, into, options.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, nil
}

// announce tells of changes: the members that are found to be concerned, and then all, of the
// first change at once, of the next when they have had the time to look.
func (c *crowd) announce(ctx context.Context) {
	var look, all turn
	due := time.NewTimer(0)
	defer due.Stop()
	<-due.C
	for {
		select {
		case <-c.hints:
			look.wanted, all.wanted = true, true
		case <-due.C:
		case <-ctx.Done():
			return
		}
		if began := time.Now(); look.comes(began) {
			c.findSuspects(ctx)
			look.rest(max(lookInterval, lookShare*time.Since(began)))
		}
		if all.comes(time.Now()) {
			c.mu.Lock()
			close(c.changed)
			c.changed = make(chan struct{})
			rest := time.Duration(len(c.members)) * probeInterval
			c.mu.Unlock()
			all.rest(rest)
		}
		if next, ok := earlier(&look, &all); ok {
			due.Reset(time.Until(next))
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
