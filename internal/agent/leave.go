package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// routingPatience is how long a connection may need of what we know of its container:
// until that is known, and until its way into the container's own namespace is dialled.
const routingPatience = ownerPatience + 10*time.Second

// leave hands the work on rules and sockets to a new daemon, which accepts by now. What
// we accept until the caller ends that is served all the same.
func (a *agent) leave(d *successor) {
	a.departed.Store(true)
	for _, m := range a.running {
		m.leave()
	}
	a.drained = func() {}
	if a.dir != nil {
		end, err := handover.AnnounceDraining(a.dir)
		if err != nil {
			a.log.Warn("live connections may break when the new daemon stops", "error", err, hint.Attr(err))
		} else {
			a.drained = end
		}
	}
	close(d.quiet)
	<-d.told
}

// finish serves what we have accepted to its end: for as long as it takes, or for
// Config.HandoverTimeout, or from the end of ctx on for Config.DrainTimeout.
func (a *agent) finish(ctx context.Context, hurry <-chan struct{}) {
	a.accepting.Wait()
	a.log.Info("handed over", "handover_timeout", a.tuned().cfg.HandoverTimeout.String())
	drain, expire := context.WithCancel(context.WithoutCancel(ctx))
	defer expire()
	defer closing(hurry, expire)()
	if a.tuned().cfg.HandoverTimeout > 0 {
		timer := time.AfterFunc(a.tuned().cfg.HandoverTimeout, expire)
		defer timer.Stop()
	}
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(time.Until(a.deadline()), expire)
		context.AfterFunc(drain, func() { timer.Stop() })
	})
	defer stop()
	settling, settled := context.WithCancel(drain)
	following := make(chan struct{})
	go a.follow(drain, settling, following)
	left := sync.OnceFunc(func() {
		settled()
		<-following
		a.resolver.Keep(nil)
		for _, m := range a.running {
			m.left()
		}
	})
	// A namespace that we hold does not go with its container, so only those who are
	// being routed get time to use it.
	timer := time.AfterFunc(routingPatience, left)
	defer timer.Stop()
	a.server.Drain(drain)
	left()
	for _, m := range a.running {
		m.gone()
	}
	a.drained()
	a.tidy()
	a.log.Info("the last connection has ended")
}

// tidy removes the rules of a host or a container that no daemon serves any more, and
// through which no daemon carries a connection. We have handed over, and announced that we
// have ended.
func (a *agent) tidy() {
	if a.tuned().cfg.KeepRules || a.rules == nil || a.othersDrain() {
		return
	}
	if !a.needsLock() {
		own, err := netns.Current()
		if err != nil {
			return
		}
		defer own.Close()
		if ports, err := own.ListeningPorts(); err == nil && !ports[a.cfg.Port] {
			a.removeOwn(config.Link, netrules.Families())
		}
		return
	}
	err := cleanup.Remove(context.Background(), a.cfg.RunDir, false, a.log, func(r cleanup.Removed) { // each step bounds itself
		switch {
		case r.Kept != "":
			a.log.Info("leaving rules alone that another daemon serves", "namespace", r.Namespace, "by", r.Kept)
		case r.Carried != "":
			r.SayCarried(a.log)
		}
	})
	if err != nil && !errors.Is(err, handover.ErrServed) {
		a.log.Error("cannot remove the rules that no daemon needs any more", "error", err, "hint", "run: ambassadord rules remove")
	}
}

// closing calls then when c is closed, unless the function that it returns is called
// before.
func closing(c <-chan struct{}, then func()) (stop func()) {
	stopped := make(chan struct{})
	go func() {
		select {
		case <-c: // never, if it is nil
			then()
		case <-stopped:
		}
	}()
	return sync.OnceFunc(func() { close(stopped) })
}
