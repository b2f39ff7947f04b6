package limit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// takeAll takes places for s until there is none.
func takeAll(s *Share) (n int) {
	for s.TryEnter() {
		n++
	}
	return n
}

// TestEachClientIsSureOfItsPart: whoever takes all it can get, and in whichever order
// others come and do the same, nobody is left without its part of the reserve.
func TestEachClientIsSureOfItsPart(t *testing.T) {
	const clients, open, reserve = 51, 8160, 1020
	l := New("the daemon", "", Bounds{Open: open, Queue: 10, Reserve: reserve})
	l.SetClients(clients)
	greedy := l.Share("greedy")
	if n := takeAll(greedy); n < open-reserve || n > open-reserve/2 {
		t.Fatalf("alone it gets %d of %d; want all but the reserve of %d, and of that no more than half", n, open, reserve)
	}
	for i := range clients - 1 {
		if n := takeAll(l.Share(fmt.Sprint("client ", i))); n < reserve/2/clients {
			t.Errorf("client %d gets %d; want its part of the reserve, %d", i, n, reserve/2/clients)
		}
	}
}

// TestEverybodyGetsOne: everybody gets one as long as there is one.
func TestEverybodyGetsOne(t *testing.T) {
	l := New("the daemon", "", Bounds{Open: 80, Reserve: 10})
	l.SetClients(1000)
	takeAll(l.Share("greedy"))
	for i := range 5 {
		if n := takeAll(l.Share("few")); n < 1 {
			t.Errorf("newcomer %d gets nothing", i)
		}
	}
}

// TestFewerClients: what is no longer owed to those who have gone is for those who wait.
func TestFewerClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("the daemon", "", Bounds{Open: 80, Reserve: 10, Queue: 10})
		l.SetClients(5)
		some := l.Share("some")
		takeAll(some)
		more := l.Share("more")
		takeAll(more)
		came := make(chan error, 1)
		go func() { came <- more.Enter(t.Context()) }()
		synctest.Wait()
		l.SetClients(1)
		synctest.Wait()
		select {
		case err := <-came:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("%d of 80 are taken, and who waits does so still", l.Open())
			some.Leave()
			<-came
		}
	})
}

// TestTheGreediestWaits: what is given back beyond the reserve goes to whoever has the
// fewest, although others have waited for longer.
func TestTheGreediestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("the daemon", "", Bounds{Open: 10, Queue: 10})
		greedy, honest := l.Share("greedy"), l.Share("honest")
		takeAll(greedy)
		came := make(chan string, 4)
		for _, s := range []*Share{greedy, greedy, honest, honest} {
			go func() {
				if err := s.Enter(t.Context()); err != nil {
					t.Error(err)
				}
				came <- s.Name
			}()
			synctest.Wait()
		}
		var order []string
		for range 4 {
			greedy.Leave()
			order = append(order, <-came)
		}
		if want := []string{"honest", "honest", "greedy", "greedy"}; !slices.Equal(order, want) {
			t.Errorf("places went to %v; want %v", order, want)
		}
	})
}

// TestTheQueueIsShared: who fills it makes room for one that has fewer there, by its last.
func TestTheQueueIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("the daemon", "raise it", Bounds{Open: 4, Queue: 4})
		greedy, honest := l.Share("greedy"), l.Share("honest")
		takeAll(greedy)
		ended := make(chan error, 10)
		enter := func(s *Share) {
			go func() { ended <- s.Enter(t.Context()) }()
			synctest.Wait()
		}
		for range 4 {
			enter(greedy)
		}
		for range 2 {
			enter(honest)
			if err := <-ended; !isOver(err) || !strings.Contains(err.Error(), "of which greedy has 4") {
				t.Errorf("%v; want that one of the greedy is turned away", err)
			}
		}
		enter(honest) // they have as many as the others by now
		if err := <-ended; !isOver(err) || !strings.Contains(err.Error(), "queue of 4") {
			t.Errorf("%v; want that there is no place", err)
		}
		for range 4 {
			greedy.Leave()
		}
		synctest.Wait()
		if greedy.open != 2 || honest.open != 2 || l.waiting != 0 {
			t.Errorf("the greedy has %d, the honest %d, %d wait; want 2, 2 and 0", greedy.open, honest.open, l.waiting)
		}
	})
}

// TestARateIsGivenInTurns: one that asks for all of it does not keep others from theirs,
// also beside one that has many connections already.
func TestARateIsGivenInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("the daemon", "", Bounds{Rate: 10, Queue: 100})
		greedy, honest := l.Share("greedy"), l.Share("honest")
		takeAll(greedy)
		var mu sync.Mutex
		got := map[string]int{}
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if err := greedy.Enter(t.Context()); err == nil {
					mu.Lock()
					defer mu.Unlock()
					got["greedy"]++
				}
			})
		}
		synctest.Wait()
		for range 5 {
			wg.Go(func() {
				if err := honest.Enter(deadline(t, 1500*time.Millisecond)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got["greedy"] != 40 {
			t.Errorf("the greedy got %d; want all in the end", got["greedy"])
		}
	})
}

// TestSharesAddUp: whatever happens in whichever order, the sums are right and nobody has
// more than may be.
func TestSharesAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		l := New("the daemon", "", Bounds{Open: 40, Queue: 12, Reserve: 8})
		l.SetClients(4)
		shares := make([]*Share, 4)
		for i := range shares {
			shares[i] = l.Share("")
		}
		var wg sync.WaitGroup
		for range 3000 {
			s := shares[min(random.IntN(8), 3)] // the last of them often
			stay := time.Duration(random.IntN(200)) * time.Millisecond
			wg.Go(func() {
				if s.Enter(deadline(t, 50*time.Millisecond)) == nil {
					time.Sleep(stay)
					s.Leave()
				}
			})
			time.Sleep(time.Duration(random.IntN(4)) * time.Millisecond)
			l.mu.Lock()
			open, waiting, paid := 0, 0, 0
			for _, s := range shares {
				open, waiting, paid = open+s.open, waiting+len(s.waiting), paid+min(s.open, l.sure)
			}
			if open != l.open || open > 40 || waiting != l.waiting || waiting > 12 || paid != l.paid {
				t.Errorf("open %d of %d, waiting %d of %d, paid %d of %d", open, l.open, waiting, l.waiting, paid, l.paid)
			}
			if 40-l.open < l.owed() {
				t.Errorf("%d are free, %d are owed", 40-l.open, l.owed())
			}
			l.mu.Unlock()
		}
		wg.Wait()
		if l.open+l.waiting+l.paid != 0 || l.have != nil {
			t.Errorf("at the end %d, %d, %d, %v", l.open, l.waiting, l.paid, l.have)
		}
	})
}

// TestTheReserveIsWhatClientsHaveAUseFor: with few clients that may come no more is kept
// than they are sure of, and as much again.
func TestTheReserveIsWhatClientsHaveAUseFor(t *testing.T) {
	for clients, most := range map[int]int{1: 8000 - 128, 2: 8000 - 256, 100: 7000} {
		l := New("the daemon", "", Bounds{Open: 8000, Reserve: 1000})
		l.SetClients(clients)
		greedy, other := l.Share("greedy"), l.Share("other")
		for greedy.open < 8000 && l.take(greedy) {
		}
		// Of the half of the reserve that is not owed it takes as many as are left then.
		if greedy.open < most || greedy.open > most+l.reserve/2 {
			t.Errorf("one of %d clients has %d; want %d and a part of the reserve of %d", clients, greedy.open, most, l.reserve)
		}
		if clients == 1 {
			continue
		}
		for range l.sure {
			if !l.take(other) {
				t.Fatalf("one of %d clients is sure of %d, and has %d", clients, l.sure, other.open)
			}
		}
	}
}
