package main

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// job is what runs in one process on one host: a package's tests, or some of them, with
// test2json's events on its standard output.
type job struct {
	// name says what it is, for messages.
	name   string
	folder string
	args   []string
	// alone says that nothing else runs meanwhile.
	alone bool
	// expected is how long it takes, as far as is known.
	expected time.Duration
}

// jobQueue has the jobs of all engines, and gives them to hosts: as many at a time as it has
// slots, the longest first, and a slot to the engine that has most left to do for each of its
// hosts. A job that is to be alone is given out when all else has ended.
type jobQueue struct {
	mu      sync.Mutex
	changed *sync.Cond
	slots   int
	running int
	lanes   map[string]*lane // by engine
}

// lane is what is left to do on one engine.
type lane struct {
	beside, alone []*job // the longest first
	hosts         int    // that take them
	waiting       int    // of these, those that wait for a slot
}

// left is how long one of the lane's hosts would still take.
func (l *lane) left() time.Duration {
	var all time.Duration
	for _, j := range l.beside {
		all += j.expected
	}
	return all / time.Duration(max(l.hosts, 1))
}

func newQueue(slots int) *jobQueue {
	q := &jobQueue{slots: slots, lanes: map[string]*lane{}}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// add has hosts of an engine do jobs.
func (q *jobQueue) add(engine string, hosts int, jobs []*job) {
	l := &lane{hosts: hosts}
	for _, j := range jobs {
		if j.alone {
			l.alone = append(l.alone, j)
		} else {
			l.beside = append(l.beside, j)
		}
	}
	for _, jobs := range [][]*job{l.beside, l.alone} {
		slices.SortStableFunc(jobs, func(a, b *job) int { return cmp.Compare(b.expected, a.expected) })
	}
	q.lanes[engine] = l
}

// next waits for a job that a host of the engine is to do. It returns nil when there is none
// left for it, or when ctx has ended; the host is to take no other then. Of an engine's hosts
// the last to ask waits for the jobs that are to be alone.
func (q *jobQueue) next(ctx context.Context, engine string) *job {
	defer context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})()
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[engine]
	l.waiting++
	defer func() {
		l.waiting--
		q.changed.Broadcast()
	}()
	for ctx.Err() == nil {
		jobs := &l.beside
		if len(l.beside) == 0 {
			jobs = &l.alone
			if l.hosts > 1 || len(l.alone) == 0 {
				break
			}
		}
		if j := (*jobs)[0]; q.mayRun(l, j) {
			*jobs = (*jobs)[1:]
			q.running++
			return j
		}
		q.changed.Wait()
	}
	l.hosts--
	return nil
}

// mayRun reports whether a job of that lane may begin. The lock is held.
func (q *jobQueue) mayRun(l *lane, j *job) bool {
	if j.alone {
		for _, other := range q.lanes {
			if len(other.beside) > 0 && other.hosts > 0 {
				return false
			}
		}
		return q.running == 0
	}
	if q.running >= q.slots {
		return false
	}
	for _, other := range q.lanes {
		if other != l && other.waiting > 0 && len(other.beside) > 0 && other.left() > l.left() {
			return false
		}
	}
	return true
}

// ended says that a job has.
func (q *jobQueue) ended() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.changed.Broadcast()
}

// lost says that a host of the engine has ended, though there may be jobs for it.
func (q *jobQueue) lost(engine string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lanes[engine].hosts--
	q.changed.Broadcast()
}

// undone are the jobs of an engine that no host has taken.
func (q *jobQueue) undone(engine string) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Concat(q.lanes[engine].beside, q.lanes[engine].alone)
}
