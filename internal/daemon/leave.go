package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/mode/attach"
	"github.com/ambassadord/ambassadord/internal/onclose"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// routingPatience is how long a connection may need of what we know of its container:
// until that is known, and until its way into the container's own namespace is dialled.
const routingPatience = attach.OwnerPatience + 10*time.Second

// leave hands the work on rules and sockets to a new daemon, which accepts by now. What
// we accept until the caller ends that is served all the same.
func (d *daemon) leave(next *successor) {
	d.giver.on(leaves)
	d.stopModes(true)
	d.drained = func() {}
	if d.dir != nil {
		end, err := handover.AnnounceDraining(d.dir)
		if err != nil {
			d.log.Warn("live connections may break when the new daemon stops", "error", err, hint.Attr(err))
		} else {
			d.drained = end
		}
	}
	close(next.quiet)
	<-next.told
}

// finish serves what we have accepted to its end: for as long as it takes, or for
// Config.HandoverTimeout, or from the end of ctx on for Config.DrainTimeout. next is told what is
// counted meanwhile.
func (d *daemon) finish(ctx context.Context, next *successor) {
	d.sockets.Wait()
	d.log.Info("handed over", "handover_timeout", d.settings.Load().Config.HandoverTimeout.String())
	drain, expire := context.WithCancel(context.WithoutCancel(ctx))
	defer expire()
	defer onclose.Call(d.hooks.Hurry, expire)()
	if d.settings.Load().Config.HandoverTimeout > 0 {
		timer := time.AfterFunc(d.settings.Load().Config.HandoverTimeout, expire)
		defer timer.Stop()
	}
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(time.Until(d.deadline()), expire)
		context.AfterFunc(drain, func() { timer.Stop() })
	})
	defer stop()
	settling, settled := context.WithCancel(drain)
	following := make(chan struct{})
	go d.follower.run(drain, settling, following)
	left := sync.OnceFunc(func() {
		settled()
		<-following
		d.sources.Resolver.Keep(nil)
		for _, r := range d.remains {
			r.Routed()
		}
	})
	// A namespace that we hold does not go with its container, so only those who are
	// being routed get time to use it.
	timer := time.AfterFunc(routingPatience, left)
	defer timer.Stop()
	counting, counted := context.WithCancel(context.WithoutCancel(ctx))
	var telling sync.WaitGroup
	telling.Go(func() { next.tellOn(counting) })
	d.server.Drain(drain)
	counted()
	telling.Wait()
	left()
	for _, r := range d.remains {
		r.Drained()
	}
	d.drained()
	d.tidy()
	d.log.Info("the last connection has ended")
}

// tidy removes the rules of a host or a container that no daemon serves any more, and
// through which no daemon carries a connection. We have handed over, and announced that we
// have ended.
func (d *daemon) tidy() {
	if d.settings.Load().Config.KeepRules || d.rules == nil || handover.OthersDrain(d.dir) {
		return
	}
	if !d.hostWide() {
		here, err := netns.Current()
		if err != nil {
			return
		}
		defer here.Close()
		if ports, err := here.ListeningPorts(); err == nil && !ports[d.cfg.Port] {
			own := d.own(config.Link)
			own.Remove(netrules.Families())
		}
		return
	}
	err := cleanup.Remove(context.Background(), d.cfg.RunDir, false, d.log, func(r cleanup.Removed) { // each step bounds itself
		switch {
		case r.Kept != "":
			d.log.Info("leaving rules alone that another daemon serves", "namespace", r.Namespace, "by", r.Kept)
		case r.Carried != "":
			r.SayCarried(d.log)
		}
	})
	if err != nil && !errors.Is(err, handover.ErrServed) {
		d.log.Error("cannot remove the rules that no daemon needs any more", "error", err, "hint", "run: ambassadord rules remove")
	}
}
