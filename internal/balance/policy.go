package balance

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
)

// redraws is how often a draw that hit one that is already tried is repeated before
// all are looked at.
const redraws = 4

// pick chooses the index of one of those who are well and not tried; -1 when there is
// none.
func (g *group) pick(c *Choice) int {
	if len(g.well) == 0 {
		return -1
	}
	switch c.pool.options.Policy {
	case First:
		return g.first(&c.tried)
	case Source:
		return g.affine(c)
	case Random:
		return g.random(&c.tried, -1)
	case RoundRobin:
		return g.inTurn(c)
	default:
		return g.leastLoaded(&c.tried)
	}
}

// rival is the index of the one who is well that somebody who is not has to be better than
// to be picked; -1 when anybody could be. To others it is not let through as a probe either.
func (g *group) rival(c *Choice) int {
	switch c.pool.options.Policy {
	case First:
		return g.first(&c.tried)
	case Source:
		return g.affine(c)
	default:
		return -1
	}
}

// wouldPick says whether m, who is not well, could be picked before rival if it were.
func (g *group) wouldPick(c *Choice, m *member, rival int) bool {
	if rival < 0 {
		return true
	}
	if c.pool.options.Policy == First {
		return m.place < g.well[rival].place
	}
	return affinity(c.client, m.hash, c.pool.registry.decided().weightOf(m)) < affinity(c.client, g.well[rival].hash, g.weights[rival])
}

func (g *group) first(t *tried) int {
	for i, m := range g.well {
		if !t.has(m.health) {
			return i
		}
	}
	return -1
}

// affine is rendezvous hashing: each endpoint draws a number that only it and the
// client decide, and the best wins. So a client moves only when its endpoint
// leaves, or to one that joins. With weights, an endpoint of weight w has the best
// of w draws, as it were: the key -ln(u)/w is then least (Efraimidis and Spirakis).
func (g *group) affine(c *Choice) int {
	if c.tried.n > 0 || g.memo == nil {
		return g.rendezvous(c)
	}
	return g.memo.home(c.client, func() int { return g.rendezvous(c) })
}

func (g *group) rendezvous(c *Choice) int {
	best := -1
	if g.sums == nil { // the order of keys is then that of the numbers, reversed
		var most uint64
		for i, m := range g.well {
			if drawn := mix(c.client ^ m.hash); (best < 0 || drawn > most) && !c.tried.has(m.health) {
				best, most = i, drawn
			}
		}
		return best
	}
	least := math.Inf(1)
	for i, m := range g.well {
		if key := affinity(c.client, m.hash, g.weights[i]); key < least && !c.tried.has(m.health) {
			best, least = i, key
		}
	}
	return best
}

// affinity is the key of an endpoint for a client: the less, the better.
func affinity(client, endpoint uint64, weight float64) float64 {
	u := (float64(mix(client^endpoint)>>11) + 0.5) / (1 << 53)
	return -math.Log(u) / weight
}

// random draws by weight one that is neither tried nor at index except; -1 when there
// is none.
func (g *group) random(t *tried, except int) int {
	for range redraws {
		if i := g.draw(); i != except && !t.has(g.well[i].health) {
			return i
		}
	}
	return scan(g.well, g.weights, t, except)
}

// scan draws as random does, by looking at all of members; weights may be nil for
// equal ones. Each draws a number by its weight, and the least wins.
func scan(members []*member, weights []float64, t *tried, except int) int {
	best, least := -1, math.Inf(1)
	for i, m := range members {
		if i == except || t.has(m.health) {
			continue
		}
		key := rand.ExpFloat64()
		if weights != nil {
			key /= weights[i]
		}
		if key < least {
			best, least = i, key
		}
	}
	return best
}

// draw draws an index by weight.
func (g *group) draw() int {
	if g.sums == nil {
		return rand.IntN(len(g.well))
	}
	return g.index(rand.Float64())
}

// index is the member at the given part, from 0 up to 1, of the sum of all weights.
func (g *group) index(part float64) int {
	at := part * g.sums[len(g.sums)-1]
	low, high := 0, len(g.sums)-1 // never past the last, however the floats round
	for low < high {
		if middle := (low + high) / 2; g.sums[middle] > at {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}

// golden is 2^64 divided by the golden ratio.
const golden = 0x9e3779b97f4a7c15

// inTurn goes around. With unequal weights it goes around the circle of all weights
// in steps of the golden ratio: by the three-distance theorem, each then comes at
// distances of at most three lengths, as evenly spread as can be, for any weights and
// without a table of turns.
func (g *group) inTurn(c *Choice) int {
	n := uint64(len(g.well))
	for range min(n, redraws) {
		turn := c.pool.turn.Add(1)
		i := int(turn % n)
		if g.sums != nil {
			i = g.index(float64(turn*golden>>11) / (1 << 53))
		}
		if !c.tried.has(g.well[i].health) {
			return i
		}
	}
	return scan(g.well, g.weights, &c.tried, -1)
}

// leastLoaded draws two by weight and takes the first, unless that has more than its
// share of the connections of both. The more it is above it, the likelier is the
// second, so that the shares come out right even when there are so few connections
// that whole ones cannot be shared by weight. Idle ones are thus chosen by weight,
// and of equal ones the one with fewer.
func (g *group) leastLoaded(t *tried) int {
	a := g.random(t, -1)
	if a < 0 || len(g.well) == 1 {
		return a
	}
	b := g.random(t, a)
	if b < 0 {
		return a
	}
	mine, others := float64(g.well[a].health.load.Load()), float64(g.well[b].health.load.Load())
	if g.sums == nil {
		if mine > others {
			return b
		}
		return a
	}
	excess := mine - (mine+others)*g.weights[a]/(g.weights[a]+g.weights[b])
	if excess <= 0 {
		return a
	}
	// first is the part of the times that this pair is drawn in this order. From it is
	// taken what a has too much, in connections: by a factor of 1 where both weigh the
	// same, and less where one of them is drawn rarely, or the average would lean
	// towards that one, whose part cannot fall below 0.
	sum := g.sums[len(g.sums)-1]
	first := (sum - g.weights[b]) / (2*sum - g.weights[a] - g.weights[b])
	if rand.Float64()*first < 2*min(first, 1-first)*excess {
		return b
	}
	return a
}

// hashText is FNV-1a, which is the same on every host and after every start.
func hashText(text string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return mix(h)
}

func hashAddr(addr netip.AddrPort) uint64 {
	h := uint64(addr.Port())
	for _, b := range addr.Addr().As16() {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return mix(h)
}

// mix is the finalizer of splitmix64: every bit of x decides on every bit of it.
func mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// memo remembers where clients belong under policy Source, since finding out takes a
// look at every endpoint. It is part of a snapshot: where they belong changes with it.
// An entry is the upper 48 bits of the client's hash, and the index of its endpoint
// plus one. Its place is the lower bits of the hash: clients that share one displace
// each other.
type memo [1024]atomic.Uint64

// worthAMemo is from how many endpoints on there is one: 8 KB for each snapshot.
const worthAMemo = 32

// mostInAMemo is how many endpoints an entry can tell apart.
const mostInAMemo = 0xffff

// home is the index of client's endpoint, as find says it.
func (m *memo) home(client uint64, find func() int) int {
	place := &m[client%uint64(len(m))]
	if known := place.Load(); known>>16 == client>>16 && known&0xffff != 0 {
		return int(known&0xffff) - 1
	}
	i := find()
	place.Store(client>>16<<16 | uint64(i+1))
	return i
}
