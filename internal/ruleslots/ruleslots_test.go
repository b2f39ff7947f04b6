package ruleslots

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestFirstLooksGoFirst: a namespace that is not served yet waits for none that is looked after, of
// which one in nine has its turn all the same; and none waits while a slot is free.
func TestFirstLooksGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil, 1)
		leave := s.Enter(nil)
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
			queue("again", func() func() { return s.EnterAgain(nil) })
		}
		for range mostPassed + 2 {
			queue("first", func() func() { return s.Enter(nil) })
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
		s.EnterAgain(nil)() // free again
		if s.free != 1 {
			t.Errorf("%d slots are free, want 1", s.free)
		}
	})
}
