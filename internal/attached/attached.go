// Package attached knows since when each network namespace of containers is served by a mode that works
// in there, and why one is not: the mode tells it, the daemon's status shows it.
package attached

import (
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/status"
)

// Namespaces are those that are served, or are to be. The zero value is ready, and nil takes nothing
// in. Its methods may be called concurrently.
type Namespaces struct {
	mu  sync.Mutex
	all map[string]noted // by the owner's container ID
}

// noted is how far one attachment is.
type noted struct {
	short string // the owner's short ID
	pid   int    // of the namespace's owner: one that is started again has another namespace
	name  config.Mode
	since time.Time
	err   error // why the last look at it failed; nil if it did not
}

// Note takes in what became of a look at the namespace of owner.
func (a *Namespaces) Note(owner *dockerd.Container, name config.Mode, err error) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n, known := a.all[owner.ID]
	if !known || n.pid != owner.PID {
		n = noted{short: owner.ShortID(), pid: owner.PID, name: name}
	}
	if n.err = err; err == nil && n.since.IsZero() {
		n.since = time.Now()
	}
	if a.all == nil {
		a.all = map[string]noted{}
	}
	a.all[owner.ID] = n
}

// Drop forgets the namespace of a container.
func (a *Namespaces) Drop(id string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, id)
}

// Report is part of status.Reporter: it says of the containers that are in s, each in the namespace
// that it is in, since when that is served.
func (a *Namespaces) Report(s *status.Snapshot) {
	a.mu.Lock()
	byShort := make(map[string]noted, len(a.all))
	for _, n := range a.all {
		byShort[n.short] = n
	}
	a.mu.Unlock()
	for i := range s.Containers {
		if n, ok := byShort[s.Containers[i].Namespace]; ok {
			s.Containers[i].Attached = &status.Attached{Mode: string(n.name), Since: n.since, FailureView: status.Failed(n.err)}
		}
	}
}
