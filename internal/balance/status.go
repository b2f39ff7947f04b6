package balance

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// EndpointStatus is what the host knows of an address, for people.
type EndpointStatus struct {
	Addr netip.AddrPort
	// Holder is who has it, where that is known: what is said is of him alone.
	Holder string
	// Open and Opening are its connections, of all pools.
	Open, Opening int
	// Failures is how many there have been in a row.
	Failures int
	// Why is the last failure, "" when there was none.
	Why string
	// Ejections is how many there have been one upon another; a good while without
	// one takes one off.
	Ejections int
	// Ejected says that it is out since its failures; it has been since EjectedSince.
	// When EjectedUntil is over, it waits for a probe to succeed.
	Ejected                    bool
	EjectedSince, EjectedUntil time.Time
	// Probing says that a connection is under way that decides.
	Probing bool
	// Recovered is when the last ejection ended; zero when there was none.
	Recovered time.Time
	// Checks are its active checks.
	Checks []CheckStatus
	// Pools is how many have it.
	Pools int
}

// CheckStatus is what an active check found.
type CheckStatus struct {
	Check Check
	// Verdict is "up", "down", or "unchecked" when there was no result yet.
	Verdict string
	// Since is when it became that, Last when the last result was.
	Since, Last time.Time
	// Why is what was wrong the last time, "" when nothing was.
	Why string
}

// PoolStatus is how a pool chooses now, for people.
type PoolStatus struct {
	Target  string
	Options Options
	// Out is how many of its endpoints are out. Panic says that they are too many,
	// so that nobody counts as out.
	Out   int
	Panic bool
	// Members are in the order of preference.
	Members []MemberStatus
}

// MemberStatus is an endpoint of a pool.
type MemberStatus struct {
	Endpoint
	// Weight is the one in effect: less than its own in a slow start, and 0.01 for 0.
	WeightInEffect float64
	// Out says that it is drained, ejected, or down by its check, as far as this pool heeds
	// that.
	Out bool
	// Override is what an operator has decided of it.
	Override Override
	Health   EndpointStatus
}

// Status reports on every address that a pool has, or that there is something to
// remember of, sorted.
func (r *Registry) Status() []EndpointStatus {
	r.mu.Lock()
	healths := make([]*health, 0, len(r.healths))
	for _, h := range r.healths {
		healths = append(healths, h)
	}
	r.mu.Unlock()
	all := make([]EndpointStatus, 0, len(healths))
	for _, h := range healths {
		all = append(all, r.status(h))
	}
	slices.SortFunc(all, func(a, b EndpointStatus) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Holder, b.Holder)) })
	return all
}

// Pools reports on every pool, sorted by target.
func (r *Registry) Pools() []PoolStatus {
	var all []PoolStatus
	r.each(func(p *Pool) { all = append(all, p.Status()) })
	slices.SortStableFunc(all, func(a, b PoolStatus) int { return cmp.Compare(a.Target, b.Target) })
	return all
}

// Status reports on p.
func (p *Pool) Status() PoolStatus {
	snap, now, decided := p.current(), p.registry.now(), p.registry.decided()
	s := PoolStatus{Target: p.target, Options: p.options, Out: snap.out + snap.drained, Panic: snap.panic}
	for i := range snap.membership.members {
		m := &snap.membership.members[i]
		one := MemberStatus{Endpoint: m.Endpoint, Health: p.registry.status(m.health)}
		one.Out, _ = p.isOut(m, now)
		one.WeightInEffect, _ = p.weight(m, now)
		one.Override = decided[m.Addr]
		one.Out = one.Out || decided.drains(m)
		s.Members = append(s.Members, one)
	}
	return s
}

func (r *Registry) status(h *health) EndpointStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	open := int(h.open.Load())
	s := EndpointStatus{
		Addr: h.addr, Holder: h.holder, Open: open, Opening: max(0, int(h.load.Load())-open),
		Failures: h.failures(), Why: h.why, Ejections: h.times,
		Recovered: r.moment(h.recovered.Load()), Pools: len(h.pools),
	}
	if e := h.ejection.Load(); e != nil {
		s.Ejected, s.EjectedSince, s.EjectedUntil = true, r.moment(e.since), r.moment(e.until)
		s.Probing = e.probe.Load() != 0
	}
	for _, c := range h.checks {
		s.Checks = append(s.Checks, r.checkStatus(c))
	}
	slices.SortFunc(s.Checks, func(a, b CheckStatus) int {
		return cmp.Or(cmp.Compare(a.Check.Kind, b.Check.Kind), cmp.Compare(a.Check.Port, b.Check.Port), cmp.Compare(a.Check.Path, b.Check.Path))
	})
	return s
}

func (r *Registry) checkStatus(c *checker) CheckStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := CheckStatus{Check: c.check, Since: r.moment(c.since), Last: r.moment(c.last), Why: c.why}
	switch c.verdict.Load() {
	case up:
		s.Verdict = "up"
	case down:
		s.Verdict = "down"
	default:
		s.Verdict = "unchecked"
	}
	return s
}

// moment is a time of ours for people; 0 is the zero time.
func (r *Registry) moment(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return r.epoch.Add(time.Duration(t)).Round(0)
}
