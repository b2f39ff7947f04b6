package sharedwatch

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unique"
)

// fakeSource is an agent whose state has one index.
type fakeSource struct {
	probes, transactions int

	mu         sync.Mutex
	index      uint64
	changed    chan struct{} // closed when it moves, and replaced
	registered map[string]uint64
}

func (f *fakeSource) set(index uint64, registered map[string]uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index, f.registered = index, registered
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeSource) Probes() int { return f.probes }

func (f *fakeSource) Transactions() int { return f.transactions }

func (f *fakeSource) Query(ctx context.Context, _ string, index uint64, _ any) (uint64, error) {
	for {
		f.mu.Lock()
		now, changed := f.index, f.changed
		f.mu.Unlock()
		if now != index {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (f *fakeSource) Registered(_ context.Context, some []Candidate) (now []uint64, gone map[int]bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range some {
		index, there := f.registered[c.ID]
		if !there {
			if gone == nil {
				gone = map[int]bool{}
			}
			gone[i] = true
		}
		now = append(now, index)
	}
	return now, gone, nil
}

// shared has the services a and b subscribe to one watch in a bubble of time, each with an instance
// of its name. probe is what each is probed by.
func shared(t *testing.T, f *fakeSource, probe func(service string) (uint64, error), do func(a, b *Subscription)) {
	synctest.Test(t, func(t *testing.T) {
		f.index, f.changed, f.registered = 10, make(chan struct{}), map[string]uint64{"a": 3, "b": 4}
		var watches Watches[string]
		options := Options{Source: f, Timeout: time.Second, Search: SearchTime, Linger: time.Minute}
		subscribe := func(service string) *Subscription {
			s := watches.Subscribe("dc1", options, service, func(context.Context) (uint64, error) { return probe(service) })
			s.Answered(10, []Instance{{Node: unique.Make("n"), ID: service, Index: f.registered[service]}})
			return s
		}
		a, b := subscribe("a"), subscribe("b")
		time.Sleep(time.Second)
		synctest.Wait()
		do(a, b)
		a.Leave()
		b.Leave()
		time.Sleep(59 * time.Second)
		if watches.Len() != 1 {
			t.Error("it has ended before its time")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if watches.Len() != 0 {
			t.Error("nobody subscribes any more, and it goes on")
		}
	})
}

// event is what a subscriber is told within a second; false if it is not.
func event(s *Subscription) (told bool, err error) {
	select {
	case err := <-s.Events:
		return true, err
	case <-time.After(time.Second):
		return false, nil
	}
}

// TestOnlyTheConcernedAreTold: without any probe, of instances that are registered anew or are gone.
func TestOnlyTheConcernedAreTold(t *testing.T) {
	f := &fakeSource{transactions: 2}
	shared(t, f, nil, func(a, b *Subscription) {
		f.set(11, map[string]uint64{"a": 11, "b": 4})
		if told, err := event(a); err != nil || !told {
			t.Errorf("registered anew: %v, %v", told, err)
		}
		a.Answered(11, []Instance{{Node: unique.Make("n"), ID: "a", Index: 11}})
		if told, _ := event(b); told {
			t.Error("the other one is told")
		}
		f.set(12, map[string]uint64{"a": 11})
		if told, err := event(b); err != nil || !told {
			t.Errorf("gone: %v, %v", told, err)
		}
		if told, _ := event(a); told {
			t.Error("the other one is told")
		}
	})
}

// TestProbesTell: where there are no transactions, those are told whose index has moved, or cannot
// be asked for.
func TestProbesTell(t *testing.T) {
	f := &fakeSource{probes: 1}
	failed := errors.New("no answer")
	var broken bool
	probe := func(service string) (uint64, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch {
		case broken:
			return 0, failed
		case service == "b":
			return f.index, nil
		}
		return 10, nil
	}
	shared(t, f, probe, func(a, b *Subscription) {
		f.set(11, nil)
		if told, err := event(b); err != nil || !told {
			t.Errorf("moved: %v, %v", told, err)
		}
		if told, _ := event(a); told {
			t.Error("the other one is told")
		}
		b.Answered(11, nil)
		f.mu.Lock()
		broken = true
		f.mu.Unlock()
		f.set(12, nil)
		if told, err := event(a); !errors.Is(err, failed) || !told {
			t.Errorf("failed: %v, %v", told, err)
		}
	})
}
