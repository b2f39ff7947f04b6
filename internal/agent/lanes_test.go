package agent

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestFirstLooksGoFirst: whoever is not served yet waits for nobody who is looked after, of whom
// one in nine has its turn all the same; and nobody waits while a slot is free.
func TestFirstLooksGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLanes(&agent{}, 1)
		leave := l.enter(nil)
		var mu sync.Mutex
		var order []string
		var working sync.WaitGroup
		queue := func(who string, enter func() func()) {
			working.Go(func() {
				leave := enter()
				mu.Lock()
				order = append(order, who)
				mu.Unlock()
				leave()
			})
			synctest.Wait() // they queue in this order
		}
		for range 2 {
			queue("again", func() func() { return l.enterAgain(nil) })
		}
		for range mostPassed + 2 {
			queue("first", func() func() { return l.enter(nil) })
		}
		if len(order) > 0 {
			t.Errorf("%v did not wait for the only slot", order)
		}
		leave()
		working.Wait()
		want := slices.Repeat([]string{"first"}, mostPassed)
		want = append(want, "again", "first", "first", "again")
		if !slices.Equal(order, want) {
			t.Errorf("the order is %v, want %v", order, want)
		}
		l.enterAgain(nil)() // free again
		if l.free != 1 {
			t.Errorf("%d slots are free, want 1", l.free)
		}
	})
}
