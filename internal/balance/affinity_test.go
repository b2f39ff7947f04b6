package balance

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
)

const clients = 20_000

// homes is where each client goes.
func homes(t *testing.T, p *Pool) []netip.AddrPort {
	t.Helper()
	all := make([]netip.AddrPort, clients)
	for i := range all {
		u := next(t, p, fmt.Sprint("client ", i))
		all[i] = u.Addr
		u.Cancelled()
	}
	return all
}

// A client keeps its endpoint while that lives: when one leaves or joins, only those
// move who were, or come to be, its own; about one in n.
func TestSourceAffinity(t *testing.T) {
	for _, n := range []int{3, 10, 40} {
		for _, weight := range []uint16{1, 3} {
			endpoints := alike(n)
			endpoints[n-1].Weight = weight
			t.Run(fmt.Sprint(n, " endpoints, one of weight ", weight), func(t *testing.T) {
				p := newTestPool(Options{Policy: Source, EjectAfter: 1}, endpoints...)
				before := homes(t, p)
				for i, home := range homes(t, p) {
					if home != before[i] {
						t.Fatalf("client %d went to %s, then to %s", i, before[i], home)
					}
				}
				share := func(what string, got int) {
					t.Helper()
					want := clients * float64(weight) / float64(n-1+int(weight))
					if math.Abs(float64(got)-want) > 5*math.Sqrt(want) {
						t.Errorf("%s: %d clients moved; want about %.0f", what, got, want)
					}
				}
				last := endpoints[n-1].Addr
				moved := func(after []netip.AddrPort) (n int) {
					for i := range before {
						if before[i] == after[i] {
							continue
						}
						n++
						if before[i] != last {
							t.Fatalf("client %d moved from %s to %s, though neither changed", i, before[i], after[i])
						}
					}
					return n
				}
				failing(t, p, last, 1)
				share("one is ejected", moved(homes(t, p)))
				p.Update(new(int), endpoints[:n-1])
				share("it leaves", moved(homes(t, p)))
				p = newTestPool(Options{Policy: Source}, endpoints...) // as after a restart
				if n := moved(homes(t, p)); n != 0 {
					t.Errorf("%d clients have not come back to where they were", n)
				}
			})
		}
	}
}

// The second choice of a client is its own too: of those who lose their endpoint
// not all go to the same one.
func TestSourceFallsBackEvenly(t *testing.T) {
	p := newTestPool(Options{Policy: Source}, alike(5)...)
	seconds := make(map[netip.AddrPort]int)
	for i := range clients {
		if all := order(p, fmt.Sprint("client ", i)); all[0] == addr(0) {
			seconds[all[1]]++
		}
	}
	for i := 1; i < 5; i++ {
		if n := seconds[addr(i)]; n < clients/5/4*85/100 || n > clients/5/4*115/100 {
			t.Errorf("%d of the first's clients have endpoint %d as their second; want about %d", n, i, clients/5/4)
		}
	}
}

// Each client goes where the least key is, whoever else was here before it.
func TestSourceTakesTheLeastKey(t *testing.T) {
	for _, n := range []int{5, 50} {
		endpoints := alike(n)
		endpoints[0].Weight = 2
		p := newTestPool(Options{Policy: Source}, endpoints...)
		for i := range clients {
			client := fmt.Sprint("client ", i)
			best, least := netip.AddrPort{}, math.Inf(1)
			for _, e := range endpoints {
				if key := affinity(hashText(client), hashAddr(e.Addr), float64(e.Weight)); key < least {
					best, least = e.Addr, key
				}
			}
			u := next(t, p, client)
			if u.Addr != best {
				t.Fatalf("of %d: %s went to %s; want %s", n, client, u.Addr, best)
			}
			u.Cancelled()
		}
	}
}
