package balance

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// rejoinFor is how long an endpoint may be away from a pool without being new to it
// when it comes back: two connections may bring an old and a new answer in either
// order.
const rejoinFor = 30 * time.Second

// Pool is the endpoints of one target under one set of options.
type Pool struct {
	registry *Registry
	target   string
	options  Options

	snapshot atomic.Pointer[snapshot]
	stale    atomic.Bool   // the snapshot is to be made anew
	turn     atomic.Uint64 // of RoundRobin
	used     atomic.Int64  // the beat at which it was last chosen from
	watched  atomic.Int64  // connections that depend on what its checks say
	gone     atomic.Bool   // close has been called

	// mu is for making snapshots and memberships. Choosing only tries it.
	mu     sync.Mutex
	away   map[site]absence
	closed bool
}

// absence is what is kept of a member that has left.
type absence struct{ joined, left int64 }

func newPool(r *Registry, target string, o Options) *Pool {
	p := &Pool{registry: r, target: target, options: o}
	// So that not every pool, on every host, begins with the first.
	p.turn.Store(uint64(rand.Uint32()))
	p.used.Store(r.beat.Load())
	p.snapshot.Store(&snapshot{membership: new(membership)})
	return p
}

// member is an endpoint of a pool.
type member struct {
	Endpoint
	shared *shared
	health *health
	check  *checker // nil when the pool has none
	hash   uint64
	joined int64 // when it joined others; 0 when it was among the first
	place  int   // in the membership
}

// membership is what a pool was last told of its endpoints. It does not change.
type membership struct {
	version any
	members []member // by choice, priority, then distance
}

// Forgotten reports whether the Registry has forgotten the pool, so that it is to be
// asked for anew. Code that has kept it may ask that instead of Registry.Pool.
func (p *Pool) Forgotten() bool { return p.gone.Load() }

// Knows reports whether version is what the pool was told last, so that there is no
// need to put the endpoints together for Update.
func (p *Pool) Knows(version any) bool { return p.snapshot.Load().membership.version == version }

// Update tells the pool of its endpoints. It does nothing when version is the one it
// was told last, so it may be called for every connection; version is to be a
// pointer or another comparable value that is another one for each answer. An
// address that comes twice counts once, in its first choice and with its best priority.
func (p *Pool) Update(version any, endpoints []Endpoint) {
	if version != nil && p.snapshot.Load().membership.version == version {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	had := p.snapshot.Load().membership
	if version != nil && had.version == version {
		return
	}
	now := p.registry.now()
	before := make(map[site]*member, len(had.members))
	for i := range had.members {
		before[had.members[i].site()] = &had.members[i]
	}
	next := &membership{version: version, members: make([]member, 0, len(endpoints))}
	for _, e := range p.sorted(endpoints) {
		m := p.enlist(e, before, len(had.members) > 0, now)
		m.place = len(next.members)
		next.members = append(next.members, m)
	}
	p.dismiss(before, now)
	p.stale.Store(false)
	p.show(p.takeSnapshot(next, now))
	if p.options.Check.Kind != NoCheck {
		p.registry.wakeUp()
	}
}

// sorted is endpoints by choice, priority and distance, each address once.
func (p *Pool) sorted(endpoints []Endpoint) []Endpoint {
	sorted := slices.Clone(endpoints)
	slices.SortStableFunc(sorted, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Choice, b.Choice), cmp.Compare(a.Priority, b.Priority), cmp.Compare(p.distance(a), p.distance(b)))
	})
	seen := make(map[netip.AddrPort]struct{}, len(sorted))
	return slices.DeleteFunc(sorted, func(e Endpoint) bool {
		_, twice := seen[e.Addr]
		seen[e.Addr] = struct{}{}
		return twice || !e.Addr.IsValid()
	})
}

// distance is by which e is ordered.
func (p *Pool) distance(e Endpoint) Distance {
	switch {
	case !p.options.PreferNear:
		return 0
	case e.Distance == DistanceUnknown:
		return Elsewhere
	}
	return e.Distance
}

// enlist makes e a member, and takes it out of before if it was one.
func (p *Pool) enlist(e Endpoint, before map[site]*member, joins bool, now int64) member {
	m := member{Endpoint: e}
	if was := before[e.site()]; was != nil {
		delete(before, e.site())
		m.health, m.check, m.hash, m.joined = was.health, was.check, was.hash, was.joined
		if m.shared = was.shared; m.shared.Endpoint != e {
			m.shared = &shared{Endpoint: e, pool: p, health: m.health, check: m.check}
		}
		return m
	}
	m.hash = hashAddr(e.Addr)
	if p.closed {
		m.health = &health{site: e.site()} // its own: nobody would ever let go of it
	} else {
		m.health = p.registry.acquire(e.site(), p)
	}
	if p.options.Check.Kind != NoCheck {
		m.check = m.health.checker(p.options.Check)
	}
	m.shared = &shared{Endpoint: e, pool: p, health: m.health, check: m.check}
	if joins {
		m.joined = now
	}
	if was, ok := p.away[e.site()]; ok {
		delete(p.away, e.site())
		if now-was.left < int64(rejoinFor) {
			m.joined = was.joined
		}
	}
	return m
}

// dismiss lets go of those that are no longer members.
func (p *Pool) dismiss(gone map[site]*member, now int64) {
	for addr, was := range p.away {
		if now-was.left >= int64(rejoinFor) {
			delete(p.away, addr)
		}
	}
	for addr, m := range gone {
		if p.closed {
			continue // close has
		}
		p.registry.release(m.health, p)
		if p.away == nil {
			p.away = make(map[site]absence)
		}
		if len(p.away) < mostRemembered {
			p.away[addr] = absence{joined: m.joined, left: now}
		}
	}
}

// close lets go of all members. A connection that still holds the pool may go on choosing from it.
func (p *Pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.gone.Store(true)
	members := p.snapshot.Load().membership.members
	for i := range members {
		p.registry.release(members[i].health, p)
	}
}

// current is the snapshot to choose by. It is made anew by the first connection that
// finds that it has to be; others do not wait for that.
func (p *Pool) current() *snapshot {
	snap := p.snapshot.Load()
	if p.stale.Load() || snap.until != 0 && p.registry.now() >= snap.until {
		if snap.restsFor(p.registry.now()) <= 0 && p.mu.TryLock() {
			defer p.mu.Unlock()
			p.stale.Store(false) // before looking: a change from now on is for the next one
			snap = p.takeSnapshot(p.snapshot.Load().membership, p.registry.now())
			p.show(snap)
		}
	}
	return snap
}

// show makes snap the snapshot to choose by, and logs when it is another choice's. It is called with
// p.mu held.
func (p *Pool) show(snap *snapshot) {
	before := p.snapshot.Swap(snap)
	if before.membership != snap.membership || before.choice == snap.choice || len(snap.members) == 0 || len(before.members) == 0 {
		return // with another membership the choices are others, and its sources say so
	}
	level, what := slog.LevelWarn, "checks find every endpoint of a choice dead; the next choice of the target serves"
	if snap.choice < before.choice {
		level, what = slog.LevelInfo, "an earlier choice of the target serves again"
	}
	p.registry.log.Log(context.Background(), level, what, "target", p.target, "endpoint", snap.members[0].Addr.String(), "before", before.members[0].Addr.String())
}

// Serving is the Choice whose endpoints are chosen now.
func (p *Pool) Serving() int { return p.current().choice }

// inUse says whether somebody has chosen from it lately, or has a connection that is to be
// closed when its endpoint's check fails.
func (p *Pool) inUse() bool {
	return p.watched.Load() > 0 || p.registry.beat.Load()-p.used.Load() < int64(idleAfter)
}

// touch notes that somebody chooses from it.
func (p *Pool) touch() {
	beat := p.registry.beat.Load()
	used := p.used.Load()
	if used == beat {
		return
	}
	p.used.Store(beat)
	if p.options.Check.Kind != NoCheck && beat-used >= int64(idleAfter) {
		p.registry.wakeUp()
	}
}
