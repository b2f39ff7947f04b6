// Package inquiry bounds what the engine is asked about single containers. A question costs the
// engine much more than a dial costs a container, so goroutines that ask about one container at
// the same time share an answer, the pace of questions is bounded, and their number at a time.
package inquiry

import (
	"context"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// Group asks the engine what it says of containers now. Calls about the same container at the
// same time share the answer, and no container's dials have the engine asked more often than at
// a pace, or too much at once. The zero value is ready.
type Group struct {
	mu    sync.Mutex
	all   map[string]*inquiry // by container ID
	slots chan struct{}       // holds a token for each question that the engine has
}

const (
	// mostInquiries bounds the inquiries that are remembered while no call waits for them.
	mostInquiries = 256
	// mostQuestions is how many the engine has at a time: one that hangs is not to be handed
	// all that containers dial.
	mostQuestions = 16
	// inquiryPace is the least time between two questions about one container, however often
	// it is dialled for.
	inquiryPace = 10 * time.Millisecond
)

// inquiry is what is asked of one container; of Group.mu.
type inquiry struct {
	running *question // the engine has it; nil if it has none
	next    *question // has yet to be put, so that new calls can share it; nil if there is none
	at      time.Time // of the last answer
}

// question is put once, for all calls that wait for it, and given up with the last of them.
type question struct {
	waiting int // of Group.mu
	cancel  context.CancelFunc
	done    chan struct{} // closed when there is an answer
	answer  *dockerd.Container
	err     error
}

// Inspect asks the engine about the container with an ID; it bounds itself.
type Inspect func(context.Context, string) (*dockerd.Container, error)

// Ask returns what inspect says of the container id, or gives up when ctx ends, with its cause.
// The question was put after the call began, so the answer is not older than that.
func (q *Group) Ask(ctx context.Context, id string, inspect Inspect) (*dockerd.Container, error) {
	q.mu.Lock()
	in := q.of(id)
	shared := in.next
	if shared == nil {
		asking, cancel := context.WithCancel(context.WithoutCancel(ctx)) // other calls may wait for it
		shared = &question{cancel: cancel, done: make(chan struct{})}
		in.next = shared
		before := in.running
		go q.put(asking, in, shared, before, func() (*dockerd.Container, error) { return inspect(asking, id) })
	}
	shared.waiting++
	q.mu.Unlock()
	select {
	case <-shared.done:
		return shared.answer, shared.err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if shared.waiting--; shared.waiting == 0 {
		shared.cancel()
		if in.next == shared {
			in.next = nil // no call is to share what was given up
		}
	}
	return nil, context.Cause(ctx)
}

// of is the inquiry about a container. q.mu is held.
func (q *Group) of(id string) *inquiry {
	in := q.all[id]
	if in == nil {
		if q.all == nil {
			q.all, q.slots = map[string]*inquiry{}, make(chan struct{}, mostQuestions)
		}
		q.sweep()
		in = &inquiry{}
		q.all[id] = in
	}
	return in
}

// put puts a question when the one before it has its answer, and it is time, and its turn.
func (q *Group) put(ctx context.Context, in *inquiry, asked, before *question, inspect func() (*dockerd.Container, error)) {
	defer asked.cancel()
	defer close(asked.done)
	if before != nil {
		select {
		case <-before.done:
		case <-ctx.Done():
		}
	}
	q.mu.Lock()
	pause := inquiryPace - time.Since(in.at)
	q.mu.Unlock()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
	select {
	case q.slots <- struct{}{}:
		defer func() { <-q.slots }()
	case <-ctx.Done():
	}
	q.mu.Lock()
	if asked.err = ctx.Err(); asked.err == nil {
		in.next, in.running = nil, asked
	}
	q.mu.Unlock()
	if asked.err != nil {
		return
	}
	asked.answer, asked.err = inspect()
	q.mu.Lock()
	defer q.mu.Unlock()
	in.running, in.at = nil, time.Now()
}

// sweep forgets the inquiries that no call waits for, where they are too many. q.mu is held.
func (q *Group) sweep() {
	if len(q.all) < mostInquiries {
		return
	}
	for id, in := range q.all {
		if in.running == nil && in.next == nil {
			delete(q.all, id)
		}
	}
}
