package watchable

import (
	"sync"
	"testing"
)

// told reports whether a channel is closed.
func told(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestZeroValue(t *testing.T) {
	var v Value[*int]
	if v.Load() != nil {
		t.Error("a zero Value holds something")
	}
	got, replaced := v.Watch()
	if got != nil || told(replaced) {
		t.Errorf("a zero Value: %v, replaced %t", got, told(replaced))
	}
	if _, same := v.Watch(); same != replaced {
		t.Error("two readers wait for different channels")
	}
	v.Store(new(int))
	if !told(replaced) || v.Load() == nil {
		t.Error("the first value is not told of")
	}
}

func TestStoreTellsThoseWhoWait(t *testing.T) {
	var v Value[string]
	v.Store("a")
	got, first := v.Watch()
	v.StoreQuietly("b")
	if got != "a" || told(first) || v.Load() != "b" {
		t.Errorf("quietly stored: had %q, has %q, told %t", got, v.Load(), told(first))
	}
	got, second := v.Watch()
	v.Update(func(s string) string { return s + "c" })
	if got != "b" || !told(first) || !told(second) || v.Load() != "bc" {
		t.Errorf("updated: had %q, has %q, told %t and %t", got, v.Load(), told(first), told(second))
	}
	if _, third := v.Watch(); told(third) {
		t.Error("nothing has been stored since")
	}
}

// TestNothingIsMissed has one reader follow every writer to the end: a value that is stored
// between its look and its wait closes the channel that it waits for.
func TestNothingIsMissed(t *testing.T) {
	const writers, each = 4, 250
	var v Value[int]
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for range each {
				v.Update(func(n int) int { return n + 1 })
			}
		})
	}
	for last := -1; ; {
		n, replaced := v.Watch()
		if n < last || last >= 0 && n == last {
			t.Fatalf("%d after %d", n, last)
		}
		if last = n; n == writers*each {
			break
		}
		<-replaced
	}
	writing.Wait()
}

func TestReadingAllocatesNothing(t *testing.T) {
	var v Value[[4]int]
	v.Store([4]int{1})
	if n := testing.AllocsPerRun(100, func() { _, _ = v.Watch(); _ = v.Load() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
