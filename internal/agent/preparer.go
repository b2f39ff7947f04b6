package agent

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
// it is started again, a newcomer prepares each.

const (
	// firstRetry and lastRetry bound the time before the process is started again.
	firstRetry, lastRetry = time.Second, time.Minute
	// watchPatience is how long we wait, until we are ready, for somebody to watch.
	watchPatience = 2 * time.Second
	// reportPatience is how long the process may take to tell of a namespace that we have seen
	// ourselves, before we prepare that; hangPatience how much longer, until it is ended.
	reportPatience, hangPatience = 250 * time.Millisecond, 3 * time.Second
	// maxReported bounds of how many namespaces it is noted that the process has told of them.
	maxReported = 1024
)

// preparing is what newcomers knows of the process.
type preparing struct {
	process  *preparer.Preparer // nil while there is none
	mayWatch bool               // there is a table: it is told of, and thereby watches
	watches  bool               // it tells of all that appears
	declared *identity.Table    // what it was told of last
	end      func(error)        // ends it
	reported map[string]bool    // the paths that it has told of, until they are too many
	last     time.Time          // when it has told of one
	seen     map[string]*time.Timer
}

func newPreparing() preparing {
	return preparing{reported: map[string]bool{}, seen: map[string]*time.Timer{}}
}

// forget gives up all waiting for the process.
func (p *preparing) forget() {
	for where, timer := range p.seen {
		timer.Stop()
		delete(p.seen, where)
	}
}

// errHangs ends a process that does not tell of what appears.
var errHangs = errors.New("the process that prepares network namespaces does not tell of one that has appeared")

// prepareAhead runs the process for the namespaces that appear in folders, until watching ends,
// which descends from ctx.
func (ns *newcomers) prepareAhead(ctx, watching context.Context, folders []string) {
	log := ns.agent.log
	if err := turns.Shorten(); err != nil { // what is declared by the last moment is for us to add
		log.Debug("on a busy host what is declared when a container starts may be known too late", "error", err)
	}
	said := false
	for pause := firstRetry; len(ns.agent.cfg.Preparer) > 0; pause = min(2*pause, lastRetry) {
		began := time.Now()
		err := ns.runPreparer(ctx, watching, folders)
		ns.begun()
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
func (ns *newcomers) runPreparer(ctx, watching context.Context, folders []string) error {
	log := ns.agent.log
	running, end := context.WithCancelCause(watching)
	defer end(nil)
	v := &preparer.Preparer{Command: slices.Concat(ns.agent.cfg.Preparer, folders)}
	v.Appeared = func(where string, made *preparer.Made) {
		ns.reported(where)
		ns.appeared(ctx, where, made)
	}
	v.Watching = func(why error) {
		if why != nil {
			log.Info("on a busy host a container that dials at once may be too early: what prepares new network namespaces is nice -10, and has no real-time priority",
				"error", why, "hint", "run the daemon in no control group, or set cpu.rt_runtime_us of its own")
		} else {
			log.Debug("new network namespaces are prepared at real-time priority")
		}
		ns.mu.Lock()
		ns.preparing.watches = ns.preparing.process == v
		ns.mu.Unlock()
		ns.begun()
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
	ns.mu.Lock()
	p := &ns.preparing
	p.process, p.declared, p.end, p.last, p.watches = v, nil, end, time.Now(), false
	ns.declare(ns.agent.table.load())
	ns.mu.Unlock()
	err := v.Run(running)
	ns.running.Go(v.Wait)
	ns.mu.Lock()
	if p.process == v { // else there is one for other folders by now
		p.process, p.watches = nil, false
	}
	ns.mu.Unlock()
	if running.Err() != nil && watching.Err() == nil {
		return context.Cause(running)
	}
	return err
}

// declare tells the process what is to be prepared in what appears from now on. Containers that
// the engine shows as running are not looked at: when one has ended, it soon says so. ns.mu is
// held.
func (ns *newcomers) declare(table *identity.Table) {
	p := &ns.preparing
	if p.process == nil || !p.mayWatch || p.declared == table {
		return
	}
	p.declared = table
	p.process.Declare(portsOf(startersPorts(table.Starters(asRunning))))
}

// asRunning takes every namespace for mounted.
func asRunning(string) bool { return true }

// reported notes that the process has told of the namespace at where.
func (ns *newcomers) reported(where string) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	p := &ns.preparing
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
func (ns *newcomers) seen(ctx context.Context, where string) {
	ns.mu.Lock()
	p := &ns.preparing
	switch {
	case p.reported[where]:
		delete(p.reported, where)
	case p.watches && p.seen[where] == nil && len(p.seen) < maxUnclaimed:
		v, since := p.process, time.Now()
		p.seen[where] = time.AfterFunc(reportPatience, func() { ns.overdue(ctx, v, where, since) })
	case p.seen[where] == nil:
		ns.mu.Unlock()
		ns.appeared(ctx, where, nil)
		return
	}
	ns.mu.Unlock()
}

// overdue prepares the namespace at where, of which the process has not told.
func (ns *newcomers) overdue(ctx context.Context, v *preparer.Preparer, where string, since time.Time) {
	ns.mu.Lock()
	p := &ns.preparing
	if p.seen[where] == nil || ns.departed {
		ns.mu.Unlock()
		return
	}
	delete(p.seen, where)
	if !sandbox.Mounted(where) { // so the process may not have seen it
		ns.mu.Unlock()
		return
	}
	if p.process == v {
		end := p.end
		time.AfterFunc(hangPatience, func() {
			ns.mu.Lock()
			hangs := ns.preparing.process == v && ns.preparing.last.Before(since)
			ns.mu.Unlock()
			if hangs {
				end(errHangs)
			}
		})
	}
	ns.mu.Unlock()
	ns.agent.log.Debug("a new network namespace was not told of in time", "namespace", path.Base(where))
	ns.appeared(ctx, where, nil)
}

// begun says that somebody watches, or that nobody can.
func (ns *newcomers) begun() { ns.begin.Do(func() { close(ns.began) }) }
