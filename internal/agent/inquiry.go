package agent

import (
	"context"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// inquiries ask the engine what it says of containers now. Those who want to know it of the
// same one at the same time share the answer, and nobody's dials make it asked more often
// than at a pace.
type inquiries struct {
	mu  sync.Mutex
	all map[string]*inquiry // by container ID
}

// mostInquiries bounds those that are remembered while nobody waits for them.
const mostInquiries = 256

// inquiryPace is the least time between two questions about one container, whoever dials
// how often.
const inquiryPace = 10 * time.Millisecond

type inquiry struct {
	turn   chan struct{} // holds a token while the engine is asked
	users  int           // of inquiries.mu
	begun  uint64        // questions so far; of inquiry.mu
	mu     sync.Mutex
	answer *dockerd.Container
	err    error
	at     time.Time
}

// ask asks of the container id. The question was put after the call began.
func (q *inquiries) ask(ctx context.Context, id string, inspect func(context.Context, string) (*dockerd.Container, error)) (*dockerd.Container, error) {
	q.mu.Lock()
	in := q.all[id]
	if in == nil {
		if q.all == nil {
			q.all = map[string]*inquiry{}
		}
		q.sweep()
		in = &inquiry{turn: make(chan struct{}, 1)}
		q.all[id] = in
	}
	in.users++
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		in.users--
	}()
	in.mu.Lock()
	before := in.begun
	in.mu.Unlock()
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if in.begun > before { // somebody has asked since
		return in.answer, in.err
	}
	select {
	case <-time.After(inquiryPace - time.Since(in.at)):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	in.mu.Lock()
	in.begun++
	in.mu.Unlock()
	in.answer, in.err = inspect(context.WithoutCancel(ctx), id) // which bounds itself, and others may wait for it
	in.at = time.Now()
	return in.answer, in.err
}

// sweep forgets those that nobody waits for, where they are too many. q.mu is held.
func (q *inquiries) sweep() {
	if len(q.all) < mostInquiries {
		return
	}
	for id, in := range q.all {
		if in.users == 0 {
			delete(q.all, id)
		}
	}
}
