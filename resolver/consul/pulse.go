package consul

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
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
	silent  bool
	leader  string
	changed chan struct{} // closed when silent, leader or a history change, and replaced

	histories map[historyKey]*history
}

// historyKey is what watches ask whose indexes are of one table of the servers' state.
type historyKey struct {
	kind  string
	scope scope
}

// history is the index of such a table. When the servers' state is restored from a backup it
// goes backwards; then a blocking query that waits for more than that hears nothing, for as
// long as it may wait.
type history struct {
	watches int
	ask     func(*agent, *api.QueryOptions) (*api.QueryMeta, error) // for what is not there
	index   uint64
}

// beat is the pulse as one watch has followed it.
type beat struct {
	of      *pulse
	changed <-chan struct{} // closed when there is something new
	key     historyKey
}

// join follows the pulse of a, which begins with its first follower, and the history of what q
// asks.
func (p *pulse) join(a *agent, q question, config Config) *beat {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := historyKey{q.kind, q.scope}
	if q.history != nil {
		if p.histories == nil {
			p.histories = map[historyKey]*history{}
		}
		if p.histories[key] == nil {
			p.histories[key] = &history{ask: q.history}
		}
		p.histories[key].watches++
	}
	if p.waiting++; p.waiting == 1 {
		p.silent, p.leader, p.changed = false, "", make(chan struct{})
		ctx, stop := context.WithCancel(context.Background()) // it serves many watches
		p.stop, p.done = stop, make(chan struct{})
		go p.run(ctx, a, config, p.done)
	}
	return &beat{of: p, changed: p.changed, key: key}
}

// next turns to the next change and returns whether the agent is silent.
func (b *beat) next() (silent bool) {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.changed = b.of.changed
	return b.of.silent
}

// note tells the history that it has come as far as index.
func (b *beat) note(index uint64) {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	if h := b.of.histories[b.key]; h != nil {
		h.index = max(h.index, index)
	}
}

// leave ends the pulse with its last follower.
func (b *beat) leave() {
	b.of.mu.Lock()
	b.of.waiting--
	if h := b.of.histories[b.key]; h != nil {
		if h.watches--; h.watches == 0 {
			delete(b.of.histories, b.key)
		}
	}
	done := b.of.done
	last := b.of.waiting == 0
	if last {
		b.of.stop() // before another one begins
	}
	b.of.mu.Unlock()
	if last {
		<-done
	}
}

// run asks every config.Pulse: for the leader, and every other time for the histories. An
// agent is silent when it takes half as long again, or twice as long as it is wont to.
func (p *pulse) run(ctx context.Context, a *agent, config Config, done chan struct{}) {
	defer close(done)
	var usual time.Duration
	for turn := 0; pause(ctx, config.Pulse); turn++ {
		began := time.Now()
		late := time.AfterFunc(max(config.Pulse*3/2, 2*usual), func() { p.set(ctx, true, "") })
		var (
			leader string
			err    error
		)
		histories := p.asked()
		if turn%2 == 0 || len(histories) == 0 {
			leader, err = a.askLeader(ctx, config.Timeout)
		}
		for key, h := range histories {
			if turn%2 == 0 {
				break
			}
			var index uint64
			if index, err = a.askHistory(ctx, key, h, config.Timeout); err != nil {
				break
			}
			p.compare(ctx, key, h, index)
		}
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

// asked are the histories that somebody follows now.
func (p *pulse) asked() map[historyKey]*history {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.histories)
}

// askHistory asks for the index of a history.
func (a *agent) askHistory(ctx context.Context, key historyKey, h *history, timeout time.Duration) (uint64, error) {
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

// compare tells of a history that goes backwards.
func (p *pulse) compare(ctx context.Context, key historyKey, h *history, index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil || p.histories[key] != h {
		return
	}
	backwards := index < h.index
	h.index = index
	if backwards {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// set says what the agent is like. A leader that is not known is none that differs.
func (p *pulse) set(ctx context.Context, silent bool, leader string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil { // of a pulse that has ended
		return
	}
	another := leader != "" && p.leader != "" && leader != p.leader
	if leader != "" {
		p.leader = leader
	}
	if silent == p.silent && !another {
		return
	}
	p.silent = silent
	close(p.changed)
	p.changed = make(chan struct{})
}

func (a *agent) askLeader(ctx context.Context, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var leader string
	_, err := a.client.Raw().Query(leaderPath, &leader, (&api.QueryOptions{}).WithContext(ctx))
	return leader, err
}

// isTimeout tells an agent that says nothing from one that fails, which a blocking query
// hears of as well.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
