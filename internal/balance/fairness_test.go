package balance

import (
	"fmt"
	"math"
	"testing"
)

const picks = 100_000

// The ways in which connections come and go.
var lives = []struct {
	name string
	open int // how many are open at a time
}{
	{"each closed before the next", 0},
	{"ten at a time", 10},
	{"a hundred at a time", 100},
	{"none closed", math.MaxInt},
}

// shares makes many picks and counts them.
func shares(t *testing.T, p *Pool, open int) map[string]int {
	t.Helper()
	count := make(map[string]int)
	var held []Use
	for i := range picks {
		u := next(t, p, fmt.Sprint("client ", i))
		u.Opened()
		count[u.Name]++
		if held = append(held, u); len(held) > open {
			held[0].Closed(Answered)
			held = held[1:]
		}
	}
	return count
}

// Each endpoint gets its share by weight: within 5 % of it, or of the whole where
// the share is so small that chance alone moves it further.
func TestShares(t *testing.T) {
	many := make([]uint16, 100)
	for i := range many {
		many[i] = uint16(1 + i%5)
	}
	for name, weights := range map[string][]uint16{
		"equal":     {1, 1, 1},
		"unequal":   {5, 1, 1},
		"far apart": {100, 10, 1},
		"all zero":  {0, 0, 0},
		"many":      many,
	} {
		for _, policy := range []Policy{"", RoundRobin, Random, Source} {
			for _, life := range lives {
				if policy == Source && life.open != 0 {
					continue // it does not look at connections
				}
				t.Run(fmt.Sprint(name, "/", policy, "/", life.name), func(t *testing.T) {
					t.Parallel()
					p := newTestPool(Options{Policy: policy}, weighted(weights...)...)
					count := shares(t, p, life.open)
					sum := 0.0
					for _, w := range weights {
						sum += max(float64(w), leastShare)
					}
					for i, w := range weights {
						want := picks * max(float64(w), leastShare) / sum
						// Five standard deviations of chance, where those are more.
						most := max(0.05*want, 5*math.Sqrt(want))
						switch {
						case policy == RoundRobin:
							most = 10
						case life.open == 10: // a share may be less than one connection
							most = max(most, 0.01*picks)
						}
						if got := float64(count[fmt.Sprint("e", i)]); math.Abs(got-want) > most {
							t.Errorf("endpoint %d, weight %d: %v picks; want %.0f", i, w, got, want)
						}
					}
				})
			}
		}
	}
}

// A weight of zero is the least share, not none, and next to nothing beside others.
func TestWeightZero(t *testing.T) {
	for _, policy := range []Policy{"", RoundRobin, Random, Source} {
		count := shares(t, newTestPool(Options{Policy: policy}, weighted(0, 1)...), 0)
		if got := count["e0"]; got < 100 || got > 3000 {
			t.Errorf("%s: %d of %d picks; want a few", policy, got, picks)
		}
	}
}

// Endpoints of the same weight come strictly in turn.
func TestRoundRobinRotates(t *testing.T) {
	p := newTestPool(Options{Policy: RoundRobin}, alike(7)...)
	first := next(t, p, "")
	for i := range 70 {
		if got, want := next(t, p, "").Addr, addr((int(first.Addr.Addr().As4()[3])+1+i)%7); got != want {
			t.Fatalf("pick %d is %s; want %s", i, got, want)
		}
	}
}

// With weights they are interleaved: none has to wait much longer than its share
// says, and any stretch of picks is shared by weight, give or take a few.
func TestRoundRobinIsSmooth(t *testing.T) {
	weights := []uint16{50, 30, 15, 4, 1}
	p := newTestPool(Options{Policy: RoundRobin}, weighted(weights...)...)
	last, count := make(map[string]int), make(map[string]int)
	for i := range picks {
		name := next(t, p, "").Name
		count[name]++
		for k, w := range weights {
			share := float64(w) / 100
			if e := fmt.Sprint("e", k); name == e {
				if gap := float64(i - last[e]); last[e] != 0 && gap > 3/share {
					t.Fatalf("endpoint %d of share %v came after %v picks", k, share, gap)
				}
				last[e] = i
			}
			if off := float64(count[fmt.Sprint("e", k)]) - share*float64(i+1); math.Abs(off) > 6 {
				t.Fatalf("after %d picks endpoint %d is %v off its share", i+1, k, off)
			}
		}
	}
}

// Equal endpoints never differ by much in what they carry, whoever closes.
func TestLeastConnectionsEvensOut(t *testing.T) {
	p := newTestPool(Options{}, alike(2)...)
	a, b := useOf(t, p, addr(0)), useOf(t, p, addr(0))
	for range 2 {
		if got := next(t, p, "").Addr; got != addr(1) {
			t.Errorf("got %s, which has more; want the other", got)
		}
	}
	a.Cancelled()
	b.Cancelled()
	if got := next(t, p, "").Addr; got != addr(0) {
		t.Errorf("got %s; want the one that is idle now", got)
	}
}

// The connections that count are those of the whole host.
func TestLeastConnectionsOfTheHost(t *testing.T) {
	r := New(Config{})
	one, other := r.Pool("one", Options{}), r.Pool("other", Options{})
	one.Update(new(int), alike(1))
	other.Update(new(int), alike(2))
	next(t, one, "")
	if got := next(t, other, "").Addr; got != addr(1) {
		t.Errorf("got %s, which another target's client uses; want the idle one", got)
	}
}

// With weights too, who has more than its share is passed over until the shares are
// right.
func TestLeastConnectionsByWeightEvensOut(t *testing.T) {
	p := newTestPool(Options{}, weighted(3, 1)...)
	for range 100 {
		useOf(t, p, addr(1))
	}
	for i := range 295 {
		if got := next(t, p, "").Addr; got != addr(0) {
			t.Fatalf("pick %d is %s, which has more than its share; want the other", i, got)
		}
	}
	for range 400 {
		next(t, p, "")
	}
	if got := statusOf(p, addr(1)).Opening; got < 190 || got > 210 {
		t.Errorf("%d of 795 connections are at the lesser one; want a quarter", got)
	}
}
