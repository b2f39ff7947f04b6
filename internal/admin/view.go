package admin

import (
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/status"
)

// fresh is how long a snapshot is good enough for whoever asks.
const fresh = 500 * time.Millisecond

// sharedView is one snapshot for all requests of a while: however many ask, one is taken at a time and two
// in a second.
type sharedView struct {
	take func() status.View

	mu   sync.Mutex
	view *status.View // nil once it is no longer fresh: nobody holds a big one who needs it no more
}

// load is what the daemon knows now. It is not to be changed.
func (s *sharedView) load() *status.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		view := s.take()
		s.view = &view
		time.AfterFunc(fresh, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.view == &view { // another may have been taken since
				s.view = nil
			}
		})
	}
	return s.view
}

// forget is for what an action has changed: who asks next is to see it.
func (s *sharedView) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = nil
}
