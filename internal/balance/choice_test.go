package balance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// The model: what a connection may be offered next, in the simplest words. Groups
// are by priority, then distance. First come those who are well, group by group;
// then those who are out, group by group. When too many are out, nobody is.
type model struct {
	options   Options
	endpoints []Endpoint
	out       map[netip.AddrPort]bool
}

func (m *model) rank(e Endpoint) int {
	distance := 0
	if m.options.PreferNear {
		distance = map[Distance]int{SameHost: 1, SameDatacenter: 2, Elsewhere: 3, DistanceUnknown: 3}[e.Distance]
	}
	rank := int(e.Priority)*10 + distance
	most := m.options.EjectMost
	if m.out[e.Addr] && (most == 0 || len(m.out)*100 <= most*len(m.endpoints)) {
		rank += 1_000_000
	}
	return rank
}

// may is who may come next after those that were tried.
func (m *model) may(tried map[netip.AddrPort]bool) []netip.AddrPort {
	best, who := -1, []netip.AddrPort(nil)
	for _, e := range m.endpoints {
		if rank := m.rank(e); tried[e.Addr] {
			continue
		} else if best < 0 || rank < best {
			best, who = rank, []netip.AddrPort{e.Addr}
		} else if rank == best {
			who = append(who, e.Addr)
		}
	}
	return who
}

func randomModel(random *rand.Rand) *model {
	m := &model{out: make(map[netip.AddrPort]bool), options: Options{
		Policy:     policies()[random.IntN(len(policies()))],
		PreferNear: random.IntN(2) == 0, EjectAfter: 1 + random.IntN(3), EjectMost: random.IntN(101),
	}}
	n := 1 + random.IntN(12)
	if random.IntN(10) == 0 {
		n = 100
	}
	out := random.Float64()
	for i := range n {
		e := Endpoint{
			Addr: addr(i), Name: fmt.Sprint("e", i), Priority: uint16(random.IntN(3)),
			Weight: uint16(random.IntN(4)), Distance: Distance(random.IntN(4)),
		}
		m.endpoints = append(m.endpoints, e)
		if random.Float64() < out {
			m.out[e.Addr] = true
		}
	}
	return m
}

// Whatever the endpoints, their health and the options, a connection is offered each
// endpoint once in a round, in an order that the model allows.
func TestOrderFollowsTheModel(t *testing.T) {
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 1))
		m := randomModel(random)
		p := newTestPool(m.options, m.endpoints...)
		for a := range m.out {
			failing(t, p, a, m.options.EjectAfter)
		}
		c := p.Choose(fmt.Sprint("client ", seed))
		for round := range 2 {
			tried := make(map[netip.AddrPort]bool)
			for {
				may := m.may(tried)
				if left := c.Left(); left != len(m.endpoints)-len(tried) {
					t.Fatalf("seed %d: %d are left; want %d", seed, left, len(m.endpoints)-len(tried))
				}
				u, ok := c.Next()
				if !ok {
					if len(may) > 0 {
						t.Fatalf("seed %d, round %d: nobody after %d; want one of %v", seed, round, len(tried), may)
					}
					break
				}
				if !slices.Contains(may, u.Addr) {
					t.Fatalf("seed %d, round %d: %s after %v; want one of %v\n%+v", seed, round, u.Addr, tried, may, m)
				}
				tried[u.Addr] = true
				u.Cancelled()
			}
			c.Again()
		}
		for _, s := range p.registry.Status() {
			if s.Open != 0 || s.Opening != 0 || s.Ejected != m.out[s.Addr] {
				t.Fatalf("seed %d: status of %s is %+v; want no connection, ejected %v", seed, s.Addr, s, m.out[s.Addr])
			}
		}
	}
}

// First keeps to the order in which endpoints were given, within a priority.
func TestFirst(t *testing.T) {
	endpoints := alike(4)
	endpoints[0].Priority = 1
	p := newTestPool(Options{Policy: First, EjectAfter: 1}, endpoints...)
	want := []netip.AddrPort{addr(1), addr(2), addr(3), addr(0)}
	if got := order(p, ""); !slices.Equal(got, want) {
		t.Errorf("order %v; want %v", got, want)
	}
	failing(t, p, addr(1), 1)
	want = []netip.AddrPort{addr(2), addr(3), addr(0), addr(1)}
	if got := order(p, ""); !slices.Equal(got, want) {
		t.Errorf("order with the first ejected %v; want %v", got, want)
	}
}

// A connection that holds on sees who comes meanwhile, and does not try again who
// was there before.
func TestNextSeesNewEndpoints(t *testing.T) {
	p := newTestPool(Options{}, alike(2)...)
	c := p.Choose("")
	for range 2 {
		u, _ := c.Next()
		u.Failed(errRefused)
	}
	if u, ok := c.Next(); ok {
		t.Fatalf("got %s, which was tried", u.Addr)
	}
	p.Update(new(int), alike(3))
	if u, ok := c.Next(); !ok || u.Addr != addr(2) {
		t.Errorf("got %v, %v; want the new one", u.Addr, ok)
	}
	p.Update(new(int), nil)
	c.Again()
	if u, ok := c.Next(); ok {
		t.Errorf("got %s of a pool without endpoints", u.Addr)
	}
}

// What is being dialled counts, or a burst would go to one endpoint.
func TestBurstIsSpread(t *testing.T) {
	p := newTestPool(Options{}, alike(10)...)
	count := make(map[string]int)
	for range 1000 {
		count[next(t, p, "").Name]++
	}
	for name, n := range count {
		if n < 95 || n > 105 {
			t.Errorf("%s is dialled by %d of 1000; want a tenth", name, n)
		}
	}
}

// An address that comes twice is one endpoint, of its best priority.
func TestUpdateDropsDuplicates(t *testing.T) {
	twice := Endpoint{Addr: addr(0), Priority: 7}
	p := newTestPool(Options{}, append([]Endpoint{twice, {}}, alike(2)...)...)
	if got := p.Status().Members; len(got) != 2 || got[0].Priority != 0 || got[1].Priority != 0 {
		t.Errorf("members %+v; want two of priority 0", got)
	}
}

// The same version is not looked at again.
func TestUpdateByVersion(t *testing.T) {
	p := newTestPool(Options{})
	version := new(int)
	p.Update(version, alike(2))
	p.Update(version, alike(3))
	if n := len(p.Status().Members); n != 2 {
		t.Errorf("%d members after the same version again; want 2", n)
	}
	endpoints := alike(2)
	if n := testing.AllocsPerRun(100, func() { p.Update(version, endpoints) }); n != 0 {
		t.Errorf("%v allocations for nothing new", n)
	}
	p.Update(nil, alike(3))
	if n := len(p.Status().Members); n != 3 {
		t.Errorf("%d members after an update without version; want 3", n)
	}
}

func TestPoolIsSharedByTargetAndOptions(t *testing.T) {
	r := New(Config{})
	p := r.Pool("a", Options{EjectAfter: 3})
	if r.Pool("a", Options{EjectAfter: 3}) != p {
		t.Error("the same target and options got another pool")
	}
	if r.Pool("a", Options{EjectAfter: 4}) == p || r.Pool("b", Options{EjectAfter: 3}) == p {
		t.Error("another target, or other options, got the same pool")
	}
}

// Choosing allocates nothing, whatever the policy.
func TestChoosingDoesNotAllocate(t *testing.T) {
	for _, policy := range policies() {
		p := newTestPool(Options{Policy: policy, EjectAfter: 3}, alike(100)...)
		if n := testing.AllocsPerRun(1000, func() {
			c := p.Choose("0123456789ab")
			u, _ := c.Next()
			u.Opened()
			u.Closed(Answered)
		}); n != 0 {
			t.Errorf("%s: %v allocations for each connection; want none", policy, n)
		}
	}
}

// policies lists every Policy, the default first.
func policies() []Policy {
	return []Policy{LeastConnections, RoundRobin, Random, Source, First}
}
