package consul

import (
	"context"
	"errors"
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
	changed chan struct{} // closed when silent or leader change, and replaced
}

// beat is the pulse as one watch has followed it.
type beat struct {
	of      *pulse
	changed <-chan struct{} // closed when there is something new
}

// join follows the pulse of a, which begins with the first who does.
func (p *pulse) join(a *agent, config Config) *beat {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting++; p.waiting == 1 {
		p.silent, p.leader, p.changed = false, "", make(chan struct{})
		ctx, stop := context.WithCancel(context.Background()) // it serves many watches
		p.stop, p.done = stop, make(chan struct{})
		go p.run(ctx, a, config, p.done)
	}
	return &beat{of: p, changed: p.changed}
}

// next turns to the next change and returns whether the agent is silent.
func (b *beat) next() (silent bool) {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.changed = b.of.changed
	return b.of.silent
}

// leave ends the pulse with the last who follows it.
func (b *beat) leave() {
	b.of.mu.Lock()
	b.of.waiting--
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

// run asks every config.Pulse. An agent is silent when it takes half as long again, or twice
// as long as it is wont to.
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
