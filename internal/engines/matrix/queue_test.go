package main

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// work, in a bubble of synctest, has hosts of that many for each engine do all jobs, each as long as is expected, and
// returns their names in the order in which they began, how many were busy at a time at most,
// and how long it took.
func work(q *jobQueue, hosts map[string]int) (began []string, most int, took time.Duration) {
	type event struct {
		name string
		busy int
	}
	events, ended := make(chan event, 100), make(chan struct{})
	start, all := time.Now(), 0
	slots := q.slots
	q.slots = 0 // until all of them wait
	for engine, count := range hosts {
		for range count {
			all++
			go func() {
				defer func() { ended <- struct{}{} }()
				for j := q.next(context.Background(), engine); j != nil; j = q.next(context.Background(), engine) {
					q.mu.Lock()
					events <- event{j.name, q.running}
					q.mu.Unlock()
					time.Sleep(j.expected)
					q.ended()
				}
			}()
		}
	}
	synctest.Wait()
	q.mu.Lock()
	q.slots = slots
	q.changed.Broadcast()
	q.mu.Unlock()
	for range all {
		<-ended
	}
	close(events)
	for e := range events {
		began, most = append(began, e.name), max(most, e.busy)
	}
	return began, most, time.Since(start)
}

func jobOf(name string, seconds int, alone bool) *job {
	return &job{name: name, expected: time.Duration(seconds) * time.Second, alone: alone}
}

// The longest begins first, whatever engine has most to do first, and no more than the slots at
// a time; what is to be alone is, and comes last.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		q.add("a", 2, []*job{jobOf("a1", 1, false), jobOf("a9", 9, false), jobOf("a4", 4, false), jobOf("alone a", 2, true)})
		q.add("b", 1, []*job{jobOf("b2", 2, false), jobOf("b10", 10, false), jobOf("alone b", 3, true)})
		q.add("c", 1, []*job{jobOf("c1", 1, false)})
		began, most, took := work(q, map[string]int{"a": 2, "b": 1, "c": 1})
		if most != 2 || took != 19*time.Second { // 27 s by two, and 5 s by one
			t.Errorf("%d at a time, in %s; want 2, in 19 s: %v", most, took, began)
		}
		if first := slices.Sorted(slices.Values(began[:2])); !slices.Equal(first, []string{"a9", "b10"}) {
			t.Errorf("the first are %v", first)
		}
		if last := slices.Sorted(slices.Values(began[6:])); !slices.Equal(last, []string{"alone a", "alone b"}) {
			t.Errorf("the last are %v, of %v", last, began)
		}
		for _, engine := range []string{"a", "b", "c"} {
			if left := q.undone(engine); len(left) > 0 {
				t.Errorf("nobody has taken %v", left)
			}
		}
	})
}

// What an engine without a host has left is told, and keeps nobody waiting; another host of it
// does what is left, also what is to be alone.
func TestQueueOfALostHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		q.add("gone", 1, []*job{jobOf("a", 1, false), jobOf("b", 1, true)})
		q.add("half", 2, []*job{jobOf("c", 3, false), jobOf("d", 2, true)})
		q.lost("gone")
		q.lost("half")
		began, _, _ := work(q, map[string]int{"half": 1})
		if want := []string{"c", "d"}; !slices.Equal(began, want) {
			t.Errorf("%v, want %v", began, want)
		}
		if left := q.undone("gone"); len(left) != 2 {
			t.Errorf("left are %v, want two", left)
		}
	})
}

// A host that waits is sent away when the run is ended.
func TestQueueThatIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		q.add("a", 2, []*job{jobOf("a", 1, false), jobOf("b", 1, false)})
		ctx, cancel := context.WithCancel(context.Background())
		if j := q.next(ctx, "a"); j == nil {
			t.Fatal("no job")
		}
		gone := make(chan *job)
		go func() { gone <- q.next(ctx, "a") }()
		synctest.Wait()
		cancel()
		if j := <-gone; j != nil {
			t.Errorf("it was given %s", j.name)
		}
	})
}
