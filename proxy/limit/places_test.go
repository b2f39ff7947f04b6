package limit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestEveryPlaceComesBack: whatever clients and the operator do at the same time, when all
// have left nobody has a place, waits for one, or is owed one that somebody has.
func TestEveryPlaceComesBack(t *testing.T) {
	for _, rated := range []int{0, 500} {
		synctest.Test(t, func(t *testing.T) {
			l := New("the daemon", "", Bounds{Open: 80, Reserve: 10, Queue: 20, Rate: rated})
			l.SetClients(5)
			shares := make([]*Share, 8)
			for i := range shares {
				shares[i] = l.Share(fmt.Sprint(i))
				shares[i].anonymous = i == 7
			}
			var all sync.WaitGroup
			for i := range 400 {
				all.Go(func() {
					s := shares[min(rand.N(i%8+1), 7)]
					time.Sleep(rand.N(time.Second))
					switch i % 4 {
					case 0:
						if !s.TryEnter() {
							return
						}
					case 1:
						if !s.TryMore() {
							return
						}
					default:
						ctx, cancel := context.WithTimeout(t.Context(), rand.N(300*time.Millisecond))
						defer cancel()
						if s.Enter(ctx) != nil {
							return
						}
					}
					time.Sleep(rand.N(500 * time.Millisecond))
					s.Leave()
				})
			}
			for i := range 50 {
				all.Go(func() {
					time.Sleep(rand.N(time.Second))
					if i%2 == 0 {
						l.SetClients(rand.N(30))
						return
					}
					open := 40 + rand.N(60)
					l.Set(Bounds{Open: open, Reserve: open / 8, Queue: rand.N(30), Rate: rated * rand.N(3)})
				})
			}
			all.Wait()
			if l.open != 0 || l.waiting != 0 || len(l.queue) != 0 || l.have != nil || l.paid != 0 {
				t.Errorf("%d places, %d who wait of %d clients, %d paid, first %v", l.open, l.waiting, len(l.queue), l.paid, l.have)
			}
			for _, s := range shares {
				if s.open != 0 || s.busy() || s.next != nil || s.before != nil {
					t.Errorf("share %s has %d, waits with %d", s.Name, s.open, len(s.waiting))
				}
			}
		})
	}
}
