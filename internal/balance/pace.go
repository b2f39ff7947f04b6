package balance

import (
	"context"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// checksPerAddress is how many checks of one address begin each second, whoever wants
	// them: its server has others to serve, and each connection to it takes one of this
	// host's ports for a minute.
	checksPerAddress = 20
	// checksInAll is how many of all addresses do.
	checksInAll = 400
)

// checkPace keeps checks to those numbers. A check that comes too early waits, first come first
// served: with more checks than that each is made less often than it asks for.
type checkPace struct {
	all *rate.Limiter

	mu    sync.Mutex
	paths map[netip.AddrPort]*path
}

// path is the way of checks to one address.
type path struct {
	limiter *rate.Limiter
	users   int
}

func newPace() *checkPace {
	return &checkPace{all: rate.NewLimiter(checksInAll, checksInAll/10), paths: make(map[netip.AddrPort]*path)}
}

// join is for who is going to check addr, until leave.
func (p *checkPace) join(addr netip.AddrPort) (limiter *rate.Limiter, leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	way := p.paths[addr]
	if way == nil {
		way = &path{limiter: rate.NewLimiter(checksPerAddress, checksPerAddress/2)}
		p.paths[addr] = way
	}
	way.users++
	return way.limiter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if way.users--; way.users == 0 {
			delete(p.paths, addr)
		}
	}
}

// wait returns when a check may begin, and says whether ctx is still going on.
func (p *checkPace) wait(ctx context.Context, to *rate.Limiter) bool {
	return to.Wait(ctx) == nil && p.all.Wait(ctx) == nil
}
