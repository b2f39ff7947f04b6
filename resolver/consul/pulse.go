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
)

// leaderPath is what an agent is asked for a sign of life: it takes no token, and no more
// than one question to the servers, so it also tells of an agent that is cut off from them.
const leaderPath = "/v1/status/leader"

// maxLeader bounds that answer, in bytes.
const maxLeader = 4 << 10

// pulse asks an agent for a sign of life while somebody waits for it to answer: nothing
// comes over a connection with a blocking query, be the agent well, frozen or away. What it
// answers is the servers' leader; after another one was elected, the servers may be others.
type pulse struct {
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

// beat is the pulse as one watch has followed it.
type beat struct {
	of      *pulse
	changed <-chan struct{} // closed when there is something new of the agent
	// restored is closed when there is of the history; nil if the watch has none.
	restored <-chan struct{}
	key      historyKey
}

// join follows the pulse of a, which begins with its first follower, and the history of what q
// asks.
func (p *pulse) join(a *agent, q *question, config Config) *beat {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := &beat{of: p, key: historyKey{q.kind, q.scope}}
	if p.waiting++; p.waiting == 1 {
		p.agent.Store(condition{})
		ctx, stop := context.WithCancel(context.Background()) // it serves many watches
		p.stop, p.done = stop, make(chan struct{})
		go p.run(ctx, a, config, p.done)
	}
	_, b.changed = p.agent.Watch()
	if q.history != nil {
		b.restored = p.follow(b.key, a, q, config).restored
	}
	return b
}

// follow counts a watch of a history, which is asked for from its first watch on. It is called
// with mu held.
func (p *pulse) follow(key historyKey, a *agent, q *question, config Config) *history {
	if p.histories == nil {
		p.histories, p.comparing = map[historyKey]*history{}, make(chan struct{}, historiesAtOnce)
	}
	h := p.histories[key]
	if h == nil {
		ctx, stop := context.WithCancel(context.Background()) // likewise
		h = &history{ask: q.history, restored: make(chan struct{}), stop: stop, done: make(chan struct{})}
		p.histories[key] = h
		go p.compareAll(ctx, a, key, h, config)
	}
	h.watches++
	return h
}

// next turns to the next change and returns whether the agent is silent.
func (b *beat) next() (silent bool) {
	now, changed := b.of.agent.Watch()
	b.changed = changed
	return now.silent
}

// nextHistory turns to the history's next change.
func (b *beat) nextHistory() {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.restored = b.of.histories[b.key].restored
}

// note tells the history that it has come as far as index.
func (b *beat) note(index uint64) {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	if h := b.of.histories[b.key]; h != nil {
		h.index = max(h.index, index)
	}
}

// leave ends the pulse with its last follower, and a history with its last.
func (b *beat) leave() {
	b.of.mu.Lock()
	b.of.waiting--
	var ended []chan struct{}
	if h := b.of.histories[b.key]; h != nil && b.restored != nil {
		if h.watches--; h.watches == 0 {
			delete(b.of.histories, b.key)
			h.stop()
			ended = append(ended, h.done)
		}
	}
	if b.of.waiting == 0 {
		b.of.stop() // before another one begins
		ended = append(ended, b.of.done)
	}
	b.of.mu.Unlock()
	for _, done := range ended {
		<-done
	}
}

// run asks for the leader every config.Pulse. An agent is silent when it takes half as long
// again, or twice as long as it is wont to. What else watches ask is no sign of it: to another
// datacenter, say, the way may be long.
func (p *pulse) run(ctx context.Context, a *agent, config Config, done chan struct{}) {
	defer close(done)
	var usual time.Duration
	for pause(ctx, config.Pulse) {
		began := time.Now()
		late := time.AfterFunc(max(config.Pulse*3/2, 2*usual), func() { p.set(ctx, true, "") })
		leader, err := a.askLeader(ctx, config.Timeout)
		late.Stop()
		if ctx.Err() != nil {
			return
		}
		if silent := isTimeout(err); silent {
			p.set(ctx, true, "")
		} else {
			usual = time.Since(began)
			p.set(ctx, false, leader)
		}
	}
}

// compareAll asks for a history every other config.Pulse, and more seldom while that fails: its
// watches may be some container's, whose questions nobody can answer.
func (p *pulse) compareAll(ctx context.Context, a *agent, key historyKey, h *history, config Config) {
	defer close(h.done)
	every := 2 * config.Pulse
	failing := backoff.Backoff{Base: 2 * every, Max: historyPauses * every}
	for wait := every; pause(ctx, wait); {
		select {
		case p.comparing <- struct{}{}:
		case <-ctx.Done():
			return
		}
		reached := p.reached(h)
		index, err := a.askHistory(ctx, key, h, min(config.Timeout, historyTimeout))
		<-p.comparing
		if err != nil {
			wait = failing.Next()
			continue
		}
		failing.Reset()
		wait = every
		p.compare(ctx, h, reached, index)
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
func (p *pulse) reached(h *history) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return h.index
}

// compare tells those that follow a history that it goes backwards: its index is less than what
// it had reached before that was asked for.
func (p *pulse) compare(ctx context.Context, h *history, reached, index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
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
func (p *pulse) set(ctx context.Context, silent bool, leader string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil { // of a pulse that has ended
		return
	}
	last := p.agent.Load()
	another := leader != "" && last.leader != "" && leader != last.leader
	next := condition{silent, cmp.Or(leader, last.leader)}
	switch {
	case silent != last.silent || another:
		p.agent.Store(next)
	case next != last:
		p.agent.StoreQuietly(next)
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
