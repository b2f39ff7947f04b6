package attach

import (
	"context"
	"errors"
	"path"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/internal/turns"
)

// The namespaces of new containers are seen, and prepared, by a process of our own at real-time
// priority. We watch as well: what it has not told of in time, and where it may not be, or while
// it is started again, a early namespace prepares each.

const (
	// firstRetry and lastRetry bound the time before the process is started again.
	firstRetry, lastRetry = time.Second, time.Minute
	// watchPatience is how long the daemon waits, until it is ready, for one of the two to watch.
	watchPatience = 2 * time.Second
	// reportPatience is how long the process may take to tell of a namespace that we have seen
	// ourselves, before we prepare that; hangPatience how much longer, until it is ended.
	reportPatience, hangPatience = 250 * time.Millisecond, 3 * time.Second
	// maxReported bounds of how many namespaces it is noted that the process has told of them.
	maxReported = 1024
)

// preparerState is what an earlySet knows of the process. Its lock is the set's.
type preparerState struct {
	running  *preparer.Preparer // nil while there is none
	mayWatch bool               // there is a table: it is told of, and thereby watches
	watches  bool               // it tells of all that appears
	declared *identity.Table    // what it was told of last
	end      func(error)        // ends it
	reported map[string]bool    // the paths that it has told of, until they are too many
	last     time.Time          // when it has told of one
	seen     map[string]*time.Timer
}

func newPreparerState() preparerState {
	return preparerState{reported: map[string]bool{}, seen: map[string]*time.Timer{}}
}

// forget gives up all waiting for the process.
func (p *preparerState) forget() {
	for where, timer := range p.seen {
		timer.Stop()
		delete(p.seen, where)
	}
}

// errHangs ends a process that does not tell of what appears.
var errHangs = errors.New("the process that prepares network namespaces does not tell of one that has appeared")

// prepareAhead runs the process for the namespaces that appear in folders, until watching ends,
// which descends from ctx.
func (s *earlySet) prepareAhead(ctx, watching context.Context, folders []string) {
	log := s.Log
	if err := turns.Shorten(); err != nil { // what is declared by the last moment is for us to add
		log.Debug("on a busy host what is declared when a container starts may be known too late", "error", err)
	}
	said := false
	for pause := firstRetry; len(s.Preparer) > 0; pause = min(2*pause, lastRetry) {
		began := time.Now()
		err := s.runPreparer(ctx, watching, folders)
		s.begun()
		switch {
		case watching.Err() != nil:
			return
		case errors.Is(err, preparer.ErrDenied):
			log.Info("on a busy host a container that dials at once may be too early: what prepares new network namespaces has no real-time priority",
				"error", err, "hint", "give the daemon the capability SYS_NICE")
			return
		}
		if time.Since(began) > lastRetry {
			pause, said = firstRetry, false
		}
		tell := log.Warn
		if said {
			tell = log.Debug
		}
		said = true
		tell("the process that prepares new network namespaces has to be started again; until then a container that dials at once may be too early",
			"error", err, hint.Attr(err), "retry_in", pause.String())
		select {
		case <-time.After(pause):
		case <-watching.Done():
			return
		}
	}
}

// runPreparer runs the process once, until it or watching has ended.
func (s *earlySet) runPreparer(ctx, watching context.Context, folders []string) error {
	log := s.Log
	running, end := context.WithCancelCause(watching)
	defer end(nil)
	v := &preparer.Preparer{Command: slices.Concat(s.Preparer, folders)}
	v.Appeared = func(where string, made *preparer.Made) {
		s.reported(where)
		s.appeared(ctx, where, made)
	}
	v.Watching = func(why error) {
		if why != nil {
			log.Info("on a busy host a container that dials at once may be too early: what prepares new network namespaces is nice -10, and has no real-time priority",
				"error", why, "hint", "run the daemon in no control group, or set cpu.rt_runtime_us of its own")
		} else {
			log.Debug("new network namespaces are prepared at real-time priority")
		}
		s.mu.Lock()
		s.process.watches = s.process.running == v
		s.mu.Unlock()
		s.begun()
	}
	v.Spent = func() {
		log.Warn("so many network namespaces appear that they are prepared at ordinary priority for a while")
	}
	lost := false
	v.Lost = func(err error) {
		if lost {
			return
		}
		lost = true
		log.Warn("what was prepared in a new network namespace has not arrived; a container that dials at once may be too early",
			"error", err, "hint", "raise the limit of open files: LimitNOFILE= in its systemd unit, or docker run --ulimit nofile=")
	}
	unprepared := false
	v.Unprepared = func(where string, err error) {
		if unprepared {
			return
		}
		unprepared = true
		log.Info("on a busy host a container that dials at once may be too early: a new network namespace could not be prepared in advance",
			"namespace", path.Base(where), "error", err, "hint", "this takes Linux 5.12 with nftables, and CAP_SYS_ADMIN")
	}
	s.mu.Lock()
	p := &s.process
	p.running, p.declared, p.end, p.last, p.watches = v, nil, end, time.Now(), false
	s.declare(s.Clients.Load())
	s.mu.Unlock()
	err := v.Run(running)
	s.running.Go(v.Wait)
	s.mu.Lock()
	if p.running == v { // else there is one for other folders by now
		p.running, p.watches = nil, false
	}
	s.mu.Unlock()
	if running.Err() != nil && watching.Err() == nil {
		return context.Cause(running)
	}
	return err
}

// declare tells the process what is to be prepared in what appears from now on. Containers that
// the engine shows as running are not looked at: when one has ended, it soon says so. s.mu is
// held.
func (s *earlySet) declare(table *identity.Table) {
	p := &s.process
	if p.running == nil || !p.mayWatch || p.declared == table {
		return
	}
	p.declared = table
	p.running.Declare(portsOf(startersPorts(table.Starters(asRunning))))
}

// asRunning takes every namespace for mounted.
func asRunning(string) bool { return true }

// reported notes that the process has told of the namespace at where.
func (s *earlySet) reported(where string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.process
	p.last = time.Now()
	if timer := p.seen[where]; timer != nil {
		timer.Stop()
		delete(p.seen, where)
		return // we have seen it, too, and will not once more
	}
	if len(p.reported) >= maxReported {
		clear(p.reported)
	}
	p.reported[where] = true
}

// seen is told of each namespace that we see ourselves. While the process watches that is
// the one to say what is prepared in there.
func (s *earlySet) seen(ctx context.Context, where string) {
	s.mu.Lock()
	p := &s.process
	switch {
	case p.reported[where]:
		delete(p.reported, where)
	case p.watches && p.seen[where] == nil && len(p.seen) < maxUnclaimed:
		v, since := p.running, time.Now()
		p.seen[where] = time.AfterFunc(reportPatience, func() { s.overdue(ctx, v, where, since) })
	case p.seen[where] == nil:
		s.mu.Unlock()
		s.appeared(ctx, where, nil)
		return
	}
	s.mu.Unlock()
}

// overdue prepares the namespace at where, of which the process has not told.
func (s *earlySet) overdue(ctx context.Context, v *preparer.Preparer, where string, since time.Time) {
	s.mu.Lock()
	p := &s.process
	if p.seen[where] == nil || s.departed {
		s.mu.Unlock()
		return
	}
	delete(p.seen, where)
	if !sandbox.Mounted(where) { // so the process may not have seen it
		s.mu.Unlock()
		return
	}
	if p.running == v {
		end := p.end
		time.AfterFunc(hangPatience, func() {
			s.mu.Lock()
			hangs := s.process.running == v && s.process.last.Before(since)
			s.mu.Unlock()
			if hangs {
				end(errHangs)
			}
		})
	}
	s.mu.Unlock()
	s.Log.Debug("a new network namespace was not told of in time", "namespace", path.Base(where))
	s.appeared(ctx, where, nil)
}

// begun says that new namespaces are watched for, or that they cannot be.
func (s *earlySet) begun() { s.begin.Do(func() { close(s.began) }) }
