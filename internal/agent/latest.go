package agent

import (
	"sync"
	"sync/atomic"

	"github.com/ambassadord/ambassadord/internal/identity"
)

// latestTable holds the newest identity table: read without a lock, waited for
// by those who miss somebody in it.
type latestTable struct {
	table   atomic.Pointer[identity.Table]
	mu      sync.Mutex
	changed chan struct{} // closed at the next store; nil while nobody waits
}

// load returns the newest table, nil before the first.
func (l *latestTable) load() *identity.Table { return l.table.Load() }

// wait returns the newest table and a channel that is closed when there is a
// newer one.
func (l *latestTable) wait() (*identity.Table, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.table.Load(), l.changed
}

func (l *latestTable) store(t *identity.Table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table.Store(t)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}
