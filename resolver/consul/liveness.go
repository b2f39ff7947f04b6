package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/watchable"
	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
)

// leaderPath is what an agent is asked for a sign of life: it takes no token, and no more
// than one question to the servers, so it also tells of an agent that is cut off from them.
const leaderPath = "/v1/status/leader"

// maxLeader bounds that answer, in bytes.
const maxLeader = 4 << 10

// liveness asks an agent for a sign of life while somebody waits for it to answer: nothing
// comes over a connection with a blocking query, be the agent well, frozen or away. What it
// answers is the servers' leader; after another one was elected, the servers may be others.
type liveness struct {
	mu      sync.Mutex
	waiting int
	stop    context.CancelFunc
	done    chan struct{}
	agent   watchable.Value[condition] // tells when silent changes, or the leader from one to another

	histories map[historyKey]*history
	comparing chan struct{} // has room for as many histories as are asked for at once
}

// condition is what is known of an agent.
type condition struct {
	silent bool
	leader string // "" before the first answer
}

const (
	// historiesAtOnce is how many histories of one agent are asked for at a time.
	historiesAtOnce = 8
	// historyTimeout bounds the time that one may take.
	historyTimeout = 2 * time.Second
	// historyPauses is by how much longer the pause becomes before a history that could not
	// be read is asked for again.
	historyPauses = 8
)

// historyKey is what watches ask whose indexes are of one table of the servers' state.
type historyKey struct {
	kind  string
	scope scope
}

// history is the index of such a table. When the servers' state is restored from a backup it
// goes backwards; then a blocking query that waits for more than that hears nothing, for as
// long as it may wait.
type history struct {
	watches  int
	ask      func(*agent, *api.QueryOptions) (*api.QueryMeta, error) // for what is not there
	index    uint64
	restored chan struct{} // closed when the index goes backwards, and replaced
	stop     context.CancelFunc
	done     chan struct{}
}

// livenessCursor is how far one watch has followed an agent's signs of life.
type livenessCursor struct {
	of      *liveness
	changed <-chan struct{} // closed when there is something new of the agent
	// restored is closed when there is of the history; nil if the watch has none.
	restored <-chan struct{}
	key      historyKey
}

// join follows a's signs of life, which are asked for from the first follower on, and the history
// of what q asks.
func (l *liveness) join(a *agent, q *watchSpec, config Config) *livenessCursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &livenessCursor{of: l, key: historyKey{q.kind, q.scope}}
	if l.waiting++; l.waiting == 1 {
		l.agent.Store(condition{})
		ctx, stop := context.WithCancel(context.Background()) // it serves many watches
		l.stop, l.done = stop, make(chan struct{})
		go l.run(ctx, a, config, l.done)
	}
	_, c.changed = l.agent.Watch()
	if q.history != nil {
		c.restored = l.follow(c.key, a, q, config).restored
	}
	return c
}

// follow counts a watch of a history, which is asked for from its first watch on. It is called
// with mu held.
func (l *liveness) follow(key historyKey, a *agent, q *watchSpec, config Config) *history {
	if l.histories == nil {
		l.histories, l.comparing = map[historyKey]*history{}, make(chan struct{}, historiesAtOnce)
	}
	h := l.histories[key]
	if h == nil {
		ctx, stop := context.WithCancel(context.Background()) // likewise
		h = &history{ask: q.history, restored: make(chan struct{}), stop: stop, done: make(chan struct{})}
		l.histories[key] = h
		go l.compareAll(ctx, a, key, h, config)
	}
	h.watches++
	return h
}

// next turns to the next change and returns whether the agent is silent.
func (c *livenessCursor) next() (silent bool) {
	now, changed := c.of.agent.Watch()
	c.changed = changed
	return now.silent
}

// nextHistory turns to the history's next change.
func (c *livenessCursor) nextHistory() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.restored = c.of.histories[c.key].restored
}

// note tells the history that it has come as far as index.
func (c *livenessCursor) note(index uint64) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if h := c.of.histories[c.key]; h != nil {
		h.index = max(h.index, index)
	}
}

// leave ends the asking with the last follower, and a history with its last.
func (c *livenessCursor) leave() {
	c.of.mu.Lock()
	c.of.waiting--
	var ended []chan struct{}
	if h := c.of.histories[c.key]; h != nil && c.restored != nil {
		if h.watches--; h.watches == 0 {
			delete(c.of.histories, c.key)
			h.stop()
			ended = append(ended, h.done)
		}
	}
	if c.of.waiting == 0 {
		c.of.stop() // before another one begins
		ended = append(ended, c.of.done)
	}
	c.of.mu.Unlock()
	for _, done := range ended {
		<-done
	}
}

// run asks for the leader every config.Heartbeat. An agent is silent when it takes half as long
// again, or twice as long as it is wont to. What else watches ask is no sign of it: to another
// datacenter, say, the way may be long.
func (l *liveness) run(ctx context.Context, a *agent, config Config, done chan struct{}) {
	defer close(done)
	var usual time.Duration
	for blocking.Pause(ctx, config.Heartbeat) {
		began := time.Now()
		late := time.AfterFunc(max(config.Heartbeat*3/2, 2*usual), func() { l.set(ctx, true, "") })
		leader, err := a.askLeader(ctx, config.Timeout)
		late.Stop()
		if ctx.Err() != nil {
			return
		}
		if silent := isTimeout(err); silent {
			l.set(ctx, true, "")
		} else {
			usual = time.Since(began)
			l.set(ctx, false, leader)
		}
	}
}

// compareAll asks for a history every other config.Heartbeat, and more seldom while that fails: its
// watches may be some container's, with targets that nobody can answer.
func (l *liveness) compareAll(ctx context.Context, a *agent, key historyKey, h *history, config Config) {
	defer close(h.done)
	every := 2 * config.Heartbeat
	failing := backoff.Backoff{Base: 2 * every, Max: historyPauses * every}
	for wait := every; blocking.Pause(ctx, wait); {
		select {
		case l.comparing <- struct{}{}:
		case <-ctx.Done():
			return
		}
		reached := l.reached(h)
		index, err := a.askHistory(ctx, key, h, min(config.Timeout, historyTimeout))
		<-l.comparing
		if err != nil {
			wait = failing.Next()
			continue
		}
		failing.Reset()
		wait = every
		l.compare(ctx, h, reached, index)
	}
}

// askHistory asks for the index of a history.
func (a *agent) askHistory(ctx context.Context, key historyKey, h *history, timeout time.Duration) (_ uint64, err error) {
	defer func() {
		if p := recover(); p != nil { // over a hostile answer; nobody else sees it here
			err = fmt.Errorf("asking for an index panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	options := &api.QueryOptions{}
	key.scope.apply(options)
	meta, err := h.ask(a, options.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, nil
}

// reached is how far a history has come.
func (l *liveness) reached(h *history) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return h.index
}

// compare tells those that follow a history that it goes backwards: its index is less than what
// it had reached before that was asked for.
func (l *liveness) compare(ctx context.Context, h *history, reached, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if index >= reached {
		h.index = max(h.index, index)
	} else {
		h.index = index
		close(h.restored)
		h.restored = make(chan struct{})
	}
}

// set says what the agent is like. A leader that is not known is none that differs.
func (l *liveness) set(ctx context.Context, silent bool, leader string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil { // it has ended
		return
	}
	last := l.agent.Load()
	another := leader != "" && last.leader != "" && leader != last.leader
	next := condition{silent, cmp.Or(leader, last.leader)}
	switch {
	case silent != last.silent || another:
		l.agent.Store(next)
	case next != last:
		l.agent.StoreQuietly(next)
	}
}

func (a *agent) askLeader(ctx context.Context, timeout time.Duration) (leader string, err error) {
	defer func() {
		if p := recover(); p != nil { // likewise
			err = fmt.Errorf("asking for the leader panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = a.client.Raw().Query(leaderPath, &leader, (&api.QueryOptions{}).WithContext(ctx))
	return leader, err
}

// isTimeout tells an agent that says nothing from one that fails, which a blocking query
// hears of as well.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
