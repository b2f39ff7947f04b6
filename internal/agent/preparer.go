package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/internal/turns"
	"github.com/ambassadord/ambassadord/internal/preparer"
)

// The namespaces of new containers are seen, and prepared, by a process of our own at real-time
// priority. Where that may not be, or while it is started again, we see them ourselves, and a
// newcomer prepares each.

const (
	// firstRetry and lastRetry bound the time before the process is started again.
	firstRetry, lastRetry = time.Second, time.Minute
	// watchPatience is how long we wait, until we are ready, for somebody to watch.
	watchPatience = 2 * time.Second
)

// await calls appeared for the namespaces that appear in folders, until watching ends, which
// descends from ctx.
func (ns *newcomers) await(ctx, watching context.Context, folders []string) error {
	log := ns.agent.log
	if err := turns.Shorten(); err != nil { // what is declared by the last moment is for us to add
		log.Debug("on a busy host what is declared when a container starts may be known too late", "error", err)
	}
	for pause := firstRetry; len(ns.agent.cfg.Preparer) > 0; pause = min(2*pause, lastRetry) {
		began := time.Now()
		err := ns.advance(ctx, watching, folders)
		switch {
		case watching.Err() != nil:
			return nil
		case errors.Is(err, preparer.ErrDenied):
			log.Info("on a busy host a container that dials at once may be too early: what prepares new network namespaces has no real-time priority",
				"error", err, "hint", "give the daemon the capability SYS_NICE")
			return ns.see(ctx, watching, folders)
		}
		if time.Since(began) > lastRetry {
			pause = firstRetry
		}
		log.Warn("the process that prepares new network namespaces has to be started again; until then a container that dials at once may be too early",
			"error", err, hint.Attr(err), "retry_in", pause.String())
		meanwhile, cancel := context.WithTimeout(watching, pause)
		_ = ns.see(ctx, meanwhile, folders) // the next one says what is wrong
		<-meanwhile.Done()
		cancel()
	}
	return ns.see(ctx, watching, folders)
}

// see is await without that process.
func (ns *newcomers) see(ctx, watching context.Context, folders []string) error {
	ns.begun()
	return sandbox.Watch(watching, folders, func(path string) { ns.appeared(ctx, path, nil) })
}

// advance is await by the process, until that has ended.
func (ns *newcomers) advance(ctx, watching context.Context, folders []string) error {
	v := &preparer.Preparer{
		Command:  slices.Concat(ns.agent.cfg.Preparer, folders),
		Appeared: func(path string, made *preparer.Made) { ns.appeared(ctx, path, made) },
		Watching: func() {
			ns.agent.log.Debug("new network namespaces are prepared at real-time priority")
			ns.begun()
		},
		Spent: func() {
			ns.agent.log.Warn("so many network namespaces appear that they are prepared at ordinary priority for a while")
		},
	}
	ns.mu.Lock()
	ns.preparer, ns.told = v, nil
	ns.declare(ns.agent.table.load())
	ns.mu.Unlock()
	defer func() {
		ns.mu.Lock()
		defer ns.mu.Unlock()
		if ns.preparer == v { // else there is one for other folders by now
			ns.preparer = nil
		}
	}()
	return v.Run(watching)
}

// declare tells the process what is to be prepared in what appears from now on. Containers that
// the engine shows as running are not looked at: when one has ended, it soon says so. ns.mu is
// held.
func (ns *newcomers) declare(table *identity.Table) {
	if ns.preparer == nil || ns.told == table {
		return
	}
	ns.told = table
	ns.preparer.Declare(portsOf(startersPorts(table.Starters(asRunning))))
}

// asRunning takes every namespace for mounted.
func asRunning(string) bool { return true }

// begun says that somebody watches, or that nobody can.
func (ns *newcomers) begun() { ns.begin.Do(func() { close(ns.began) }) }

// GoAhead is the process that Config.Preparer starts.
func GoAhead(ctx context.Context, socket *os.File, folders []string) error {
	return preparer.Serve(ctx, socket, preparer.Config{Folders: folders, First: firstListenPort, Last: lastListenPort})
}
