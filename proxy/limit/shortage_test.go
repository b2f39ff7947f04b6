package limit

import (
	"fmt"
	"testing"
)

// TestAsManyAsAreNeeded: what the greediest is to give is what those in need lack, with
// what is kept for others, up to their fair shares.
func TestAsManyAsAreNeeded(t *testing.T) {
	for _, test := range []struct {
		open, reserve, clients  int
		greedy, modest, waiting int
		want, get               int
	}{
		{open: 20, greedy: 20, waiting: 1, want: 1, get: 1},
		{open: 20, greedy: 20, waiting: 7, want: 7, get: 7},
		{open: 20, greedy: 20, waiting: 100, want: 10, get: 10},
		{open: 20, greedy: 14, modest: 6, waiting: 100, want: 6, get: 6},
		{open: 20, greedy: 10, modest: 10, waiting: 1, want: 1, get: 1},
		{open: 20, greedy: 10, modest: 10, waiting: 9, want: 4, get: 4}, // more have the most, one after the other
		{open: 100, reserve: 12, clients: 3, greedy: 92, waiting: 3, want: 0, get: 3},
		{open: 100, reserve: 12, clients: 3, greedy: 92, waiting: 5, want: 3, get: 5},
		{open: 100, reserve: 12, clients: 3, greedy: 92, waiting: 9, want: 11, get: 9},
		{open: 100, reserve: 12, clients: 3, greedy: 92, waiting: 1000, want: 42, get: 38},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			// short is how many fewer than that are given.
			try := func(short int) (got int) {
				l := New("the daemon", "", Bounds{Open: test.open, Reserve: test.reserve})
				l.SetClients(test.clients)
				greedy, modest, wanting := l.Share("greedy"), l.Share("modest"), l.Share("new")
				l.Watch(func() {})
				l.mu.Lock()
				for range test.greedy {
					l.grant(greedy)
				}
				for range test.modest {
					l.grant(modest)
				}
				for range test.waiting {
					l.lack(wanting, true)
				}
				l.mu.Unlock()
				e, last := l.Excess()
				if e.Want != test.want || e.Share != greedy && e.Want > 0 && test.greedy != test.modest || last {
					t.Fatalf("%d are to go, the last look %v; want %d", e.Want, last, test.want)
				}
				for range e.Want - short {
					e.Share.Leave()
				}
				for got < test.waiting && wanting.TryEnter() {
					got++
				}
				if _, last := l.Excess(); !last {
					t.Error("nobody lacks a place any more; want the last look")
				}
				return got
			}
			if got := try(0); got != test.get {
				t.Errorf("it gets %d then; want %d", got, test.get)
			}
			if test.want > 0 && try(1) >= test.get {
				t.Errorf("one fewer would have done")
			}
		})
	}
}
