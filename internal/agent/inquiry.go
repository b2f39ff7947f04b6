package agent

import (
	"context"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// inquiries ask the engine what it says of containers now. Those who want to know it of the
// same one at the same time share the answer, and nobody's dials make it asked more often
// than at a pace, or too much at once.
type inquiries struct {
	mu    sync.Mutex
	all   map[string]*inquiry // by container ID
	slots chan struct{}       // holds a token for each question that the engine has
}

const (
	// mostInquiries bounds those that are remembered while nobody waits for them.
	mostInquiries = 256
	// mostQuestions is how many the engine has at a time: one that hangs is not to be handed
	// all that containers dial.
	mostQuestions = 16
	// inquiryPace is the least time between two questions about one container, whoever dials
	// how often.
	inquiryPace = 10 * time.Millisecond
)

// inquiry is what is asked of one container; of inquiries.mu.
type inquiry struct {
	running *question // the engine has it; nil if it has none
	next    *question // has yet to be put, so that whoever comes can share it; nil if there is none
	at      time.Time // of the last answer
}

// question is put once, for all who wait for it, and given up with the last of them.
type question struct {
	waiting int // of inquiries.mu
	cancel  context.CancelFunc
	done    chan struct{} // closed when there is an answer
	answer  *dockerd.Container
	err     error
}

// inspect asks the engine; it bounds itself.
type inspect func(context.Context, string) (*dockerd.Container, error)

// ask asks of the container id, or gives up when ctx ends. The question was put after the call
// began.
func (q *inquiries) ask(ctx context.Context, id string, inspect inspect) (*dockerd.Container, error) {
	q.mu.Lock()
	in := q.of(id)
	shared := in.next
	if shared == nil {
		asking, cancel := context.WithCancel(context.WithoutCancel(ctx)) // others may wait for it
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
			in.next = nil // nobody is to share what was given up
		}
	}
	return nil, context.Cause(ctx)
}

// of is the inquiry about a container. q.mu is held.
func (q *inquiries) of(id string) *inquiry {
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
func (q *inquiries) put(ctx context.Context, in *inquiry, asked, before *question, inspect func() (*dockerd.Container, error)) {
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

// sweep forgets those that nobody waits for, where they are too many. q.mu is held.
func (q *inquiries) sweep() {
	if len(q.all) < mostInquiries {
		return
	}
	for id, in := range q.all {
		if in.running == nil && in.next == nil {
			delete(q.all, id)
		}
	}
}
