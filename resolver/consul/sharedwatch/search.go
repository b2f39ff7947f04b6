package sharedwatch

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
)

// What has changed concerns one subscriber, as a rule, and to ask about each of thousands
// takes a second. A check that fails, or no longer does, names its service. And what is known
// of instances can be compared for many at once: a transaction of "get" operations returns
// them with the indexes at which they were registered (Consul's HTTP API, "Transactions").
// What these two miss, such as a new instance without a check, the probes find.

const (
	// mostOperations is how many a transaction may have.
	mostOperations = 128

	// SearchTime is how long a search may take, after which all are probed. searchInterval is the
	// least time between two of these, and one part in searchShare how much of the time they may
	// take.
	SearchTime     = 250 * time.Millisecond
	searchInterval = 100 * time.Millisecond
	searchShare    = 10
	// giveWay is for how long a search pauses that has found somebody, who asks meanwhile: on a
	// small machine the agent has no processor for both.
	giveWay = 20 * time.Millisecond
	// NoSearchFor is for how long there is no search after one whose transactions have failed, as
	// they do where the agent knows none.
	NoSearchFor = 10 * time.Second
)

// Candidate is an instance that may be another by now, and whose it is.
type Candidate struct {
	Instance

	service string
}

// search tells the subscribers whose instances were registered anew, or are gone, and reports
// whether that can be found out. What fails is left to the probes, which say what is wrong with
// the agent.
func (w *sharedWatch) search() bool {
	atOnce := w.Source.Transactions()
	if atOnce == 0 {
		return false
	}
	all := w.candidates()
	ctx, cancel := context.WithTimeout(w.ctx, w.Search)
	defer cancel()
	var (
		asking sync.WaitGroup
		failed atomic.Bool
		found  atomic.Bool
		slots  = make(chan struct{}, atOnce)
	)
	for some := range slices.Chunk(all, mostOperations) {
		slots <- struct{}{}
		if found.Swap(false) {
			blocking.Pause(ctx, giveWay)
		}
		if ctx.Err() != nil {
			break
		}
		asking.Go(func() {
			defer func() { <-slots }()
			if err := w.compare(ctx, some, &found); err != nil {
				failed.Store(failed.Load() || ctx.Err() == nil)
				cancel()
			}
		})
	}
	asking.Wait()
	return !failed.Load()
}

// candidates are all instances of the subscribers, in turn: of each service the first, then of each
// the second. When a service is released anew, any of them tells. What several subscribers have
// seen is there once.
func (w *sharedWatch) candidates() (all []Candidate) {
	type group struct {
		service string
		all     []Instance
	}
	w.mu.Lock()
	groups, total := make([]group, 0, len(w.subscribers)), 0
	for name, of := range w.subscribers {
		g := group{service: name}
		var seen map[Instance]bool
		for s := range of {
			switch {
			case len(of) == 1:
				g.all = s.instances
			case seen == nil:
				seen = make(map[Instance]bool, len(s.instances))
				fallthrough
			default:
				for _, r := range s.instances {
					if !seen[r] {
						seen[r] = true
						g.all = append(g.all, r)
					}
				}
			}
		}
		groups = append(groups, g)
		total += len(g.all)
	}
	w.mu.Unlock()
	all = make([]Candidate, 0, total)
	for rank := 0; len(groups) > 0; rank++ {
		groups = slices.DeleteFunc(groups, func(g group) bool { return rank >= len(g.all) })
		for _, g := range groups {
			all = append(all, Candidate{g.all[rank], g.service})
		}
	}
	return all
}

// compare tells the subscribers of those of some that are not what they were, and sets found if
// there are any.
func (w *sharedWatch) compare(ctx context.Context, some []Candidate, found *atomic.Bool) error {
	for len(some) > 0 {
		now, gone, err := w.Source.Registered(ctx, some)
		if err != nil {
			return err
		}
		changed := map[string]bool{}
		var rest []Candidate // of which a transaction that fails says nothing
		for i, c := range some {
			switch {
			case gone == nil && now[i] != c.Index && now[i] != 0, gone[i]:
				changed[c.service] = true
			case gone != nil:
				rest = append(rest, c)
			}
		}
		if len(changed) > 0 {
			w.tell(changed)
			found.Store(true)
		}
		some = rest
	}
	return nil
}
