// Package daemon builds every part from a Config, runs them, and takes them down in order;
// nothing else. The parts take each other, or functions, and none takes the daemon.
//
//	Run:  engine snapshots → identity table → resolver.Keep (warm watches)
//	                                        → the modes
//	      listeners → proxy.Server, each with the Router that knows its clients
//
// Going down: rules unhooked and listeners closed, connections drained, what the
// rules left behind removed, and only then the watches stopped, because a
// connection that is being drained may still need an answer.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/metrics"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/onclose"
	"github.com/ambassadord/ambassadord/internal/status"
)

// Hooks are for the caller of Run; each may be nil.
type Hooks struct {
	Ready   func()                        // called once it serves
	Hurry   <-chan struct{}               // closed when the drain is to end at once
	Load    func() (config.Config, error) // reads the configuration anew
	Reload  <-chan os.Signal              // asks for that
	Stop    func()                        // ends the context of Run, for who asks the daemon to
	Events  *events.Log                   // what the log has told of; nil for none
	Reopen  <-chan os.Signal              // asks for the file of the access log to be opened again
	Applied func(config.Config)           // told of a configuration that was read anew and holds
}

// daemon is a running daemon.
type daemon struct {
	*parts
	hooks Hooks

	metrics  http.Handler // of GET /metrics
	running  []mode.Mode
	remains  []mode.Remains // of those that were stopped
	follower *follower
	reloads  reloads
	giver    giver
	oldPID   int           // the process that we have taken over from, 0 if that is out of our sight
	readied  chan struct{} // closed when we are ready

	succeeding   bool                 // a daemon before us broke a takeover off, and we are to serve in its place
	before       *metrics.Predecessor // what the daemon before us has counted; nil if we have taken over from none
	hostLock     *handover.HostLock
	drained      func() // says that we carry no connection any more, after leave
	deadlineOnce sync.Once
	deadlineAt   time.Time // see deadline
}

// Run runs the daemon until ctx ends, then drains and cleans up; or until another daemon
// has taken over and the last connection has ended.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger, hooks Hooks) error {
	began, succeeding := time.Now(), false
	for {
		d, err := runOnce(ctx, cfg, log, hooks, succeeding)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil: // we were told to stop, so to have broken off is no failure
			log.Info("stopped before it served", "error", err)
			return nil
		case !errors.Is(err, handover.ErrGone):
			return err
		case time.Since(began) > successionPatience:
			return hint.Wrap(err, "see what became of it: ambassadord doctor; when none is running, run: ambassadord run")
		case !succeeding:
			log.Warn("the old daemon has broken off the takeover, as one that ends does; serving in its place as soon as it has ended", "error", err)
			succeeding = true
		}
		if d.predecessor().awaitGone(ctx); ctx.Err() != nil {
			log.Info("stopped before it served")
			return nil
		}
	}
}

// runOnce is Run, but for what it does when the daemon before us ends amid the takeover.
// succeeding says that one has.
func runOnce(ctx context.Context, cfg config.Config, log *slog.Logger, hooks Hooks, succeeding bool) (*daemon, error) {
	d, stop, err := start(ctx, cfg, log, hooks)
	if err != nil {
		return nil, err
	}
	defer stop()
	d.succeeding = succeeding
	err = d.serve(ctx)
	return d, err
}

// start builds the parts and runs those that others need, until stop is called.
func start(ctx context.Context, cfg config.Config, log *slog.Logger, hooks Hooks) (*daemon, func(), error) {
	p, stop, err := build(ctx, cfg, log, hooks.Events)
	if err != nil {
		return nil, nil, err
	}
	d := &daemon{parts: p, hooks: hooks, giver: newGiver(), readied: make(chan struct{})}
	d.metrics = p.counters.Handler(metrics.Source{Moved: p.server.Moved, Snapshot: func() *status.Snapshot { return stateOf(d) }})
	d.follower = newFollower(p)
	d.reloads = reloads{parts: p, hooks: hooks, began: time.Now()}
	if p.admin, err = newAdmin(d); err != nil {
		stop()
		return nil, nil, err
	}
	return d, stop, nil
}

// serve accepts until ctx ends and then takes everything down.
func (d *daemon) serve(ctx context.Context) error {
	if err := d.somethingToDo(d.cfg); err != nil {
		return err
	}
	if err := d.openRunDir(); err != nil {
		return err
	}
	if d.keeper != nil {
		d.keeper.ClaimIn(d.dir)
	}
	// When ctx has ended the sockets stay where the rules do, with Config.KeepRules. When another
	// daemon has taken over, it may be of our unit, and then they are its own.
	if err := d.sockets.OpenStore(func() bool {
		return d.giver.hasDeparted() || d.settings.Load().Config.KeepRules && ctx.Err() != nil
	}); err != nil {
		return err
	}
	defer d.sockets.CloseStore()
	session, err := d.takeOver(ctx)
	if err != nil {
		return err
	}
	d.endpoints.Recall()
	signalled := ctx
	// A context of its own, so that an error below ends what was started above, and that a daemon
	// which is taking over has time for that.
	ctx, cancel := context.WithCancel(context.WithoutCancel(signalled))
	defer cancel()
	defer context.AfterFunc(signalled, func() {
		d.awaitSuccessor(ctx)
		cancel()
	})()
	defer d.staying.RemoveUnneeded()
	unlock, err := d.takeLock(ctx)
	if err == nil {
		defer unlock()
		if err = d.listeners.Change(ctx, d.settings.Load()); err == nil {
			d.running, err = startModes(ctx, d.parts, d.readied)
		}
	}
	// Following has an end of its own: a new daemon has no use for our view of things.
	watching, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	following := make(chan struct{})
	if err == nil {
		d.follower.modes = d.running
		go d.follower.run(ctx, watching, following)
		if session != nil {
			err = d.adopt(ctx, session)
		}
	} else {
		close(following)
	}
	if err != nil {
		if session.Gone() {
			err = fmt.Errorf("%w: %w", handover.ErrGone, err)
		}
		session.GiveUp(err)
		cancel()
		<-following
		d.takeDown(func() {})
		return err
	}
	if session == nil { // not before, for they are read once, and one that fails to start leaves none
		d.predecessor().recallCounters()
	}
	closeControl, stopControl := d.serveControl(ctx)
	defer stopControl()
	d.admin.Serve(takenOver(session != nil, d.oldPID))
	d.endpoints.Recall()  // for until now orders were given to the daemon before us
	defer d.admin.Close() // and before the lock is another's, who may want the same socket
	defer d.succeed(ctx, session)()
	var clearing sync.WaitGroup
	defer clearing.Wait()
	reloading := d.reloads.start(ctx)
	defer reloading.Wait()
	next := d.serveOn(ctx, func() {
		if d.succeeding && session == nil {
			d.log.Info("the old daemon has ended; serving in its place")
		}
		d.log.Info("ready", "modes", d.modes, "listeners", len(d.cfg.Listeners))
		d.sockets.Ready(session != nil)
		d.clearStale(watching, &clearing) // nobody waits for it, so it takes nothing from those who do
		if d.hooks.Ready != nil {
			d.hooks.Ready()
		}
	})
	if next != nil {
		d.reloads.end()
		stopFollowing()
		<-following
		clearing.Wait()
		d.leave(next)
		cancel()
		closeControl()
		d.admin.HandOver()
		unlock()
		d.finish(signalled, next)
		return nil
	}

	reloading.Wait() // or it might open a listener behind our back
	d.sockets.Stopping()
	d.log.Info("stopping", "drain_timeout", d.settings.Load().Config.DrainTimeout.String())
	<-following
	clearing.Wait()
	d.takeDown(func() {
		drain, cancel := context.WithDeadline(context.WithoutCancel(ctx), d.deadline())
		defer cancel()
		defer onclose.Call(d.hooks.Hurry, cancel)()
		d.server.Drain(drain)
	})
	d.predecessor().leaveCounters()
	d.log.Info("stopped")
	return nil
}

// stopModes stops all modes.
func (d *daemon) stopModes(handOver bool) {
	for _, m := range d.running {
		d.remains = append(d.remains, m.Stop(handOver))
	}
}

// takeDown takes everything down in order, with drain between. ctx of serve has ended.
func (d *daemon) takeDown(drain func()) {
	d.stopModes(false)
	d.sockets.Wait()
	drain()
	if d.turn.Ours() && handover.OthersDrain(d.dir) {
		d.log.Warn("the chains stay, unhooked, for the connections of a daemon that has handed over; the last of them to end removes them")
		return
	}
	for _, r := range d.remains {
		r.Drained()
	}
	d.staying.Say()
}

// deadline is when all that we wait for before we end has had its time: Config.DrainTimeout
// from the first call on. It is called when we have been told to end. A daemon that takes over
// and connections that end share it, so that a service manager, which kills a service that takes
// longer than it allows, has to allow no more than that, and the time to remove rules.
func (d *daemon) deadline() time.Time {
	d.deadlineOnce.Do(func() { d.deadlineAt = time.Now().Add(d.settings.Load().Config.DrainTimeout) })
	return d.deadlineAt
}

// clearStale removes, in the background until ctx ends, what a daemon that is gone has left
// where none of our modes has rules, since nothing else would come by there: in our own
// namespace, and in those of containers. A daemon that takes over knows what there is, and does
// without.
func (d *daemon) clearStale(ctx context.Context, clearing *sync.WaitGroup) {
	own := !d.any(func(m mode.Row) bool { return m.OwnNamespace })
	containers := !d.any(func(m mode.Row) bool { return m.Rules && m.Enters })
	if d.turn.Follows() || !d.hostWide() || !own && !containers {
		return
	}
	clearing.Go(func() {
		if err := d.staying.RemoveStale(ctx, d.rules, own, containers); err != nil && ctx.Err() == nil {
			d.log.Warn("cannot see all that a daemon that is gone may have left", "error", err, "hint", "run: ambassadord rules remove")
		}
		d.log.Debug("looked for what a daemon that is gone may have left")
	})
}

// own is for the rules in our own network namespace of a mode.
func (p *parts) own(m config.Mode) cleanup.Own {
	return cleanup.Own{Mode: m, Rules: p.rules, Settings: p.settings, Turn: &p.turn, MustStay: p.staying.MustStay, Log: p.log}
}

// readyPatience is how long the engine may take to say who is there before we are ready all
// the same.
const readyPatience = 5 * time.Second

// serveOn returns when ctx has ended, or a new daemon accepts, which it returns. It calls
// ready when we follow the containers that are there: whatever starts from then on is seen
// from its first instruction on. An engine that does not tell of them delays that, but does
// not prevent it: fixed listeners do without.
func (d *daemon) serveOn(ctx context.Context, ready func()) *successor {
	followed, late := d.follower.followed, time.After(readyPatience)
	for {
		select {
		case <-followed:
			d.awaitWatch(ctx)
		case <-late:
		case <-ctx.Done():
			return nil
		case next := <-d.giver.handing:
			return next
		}
		ready()
		close(d.readied)
		followed, late = nil, nil
	}
}

// awaitWatch returns when new network namespaces are watched for, if they are to be.
func (d *daemon) awaitWatch(ctx context.Context) {
	for _, m := range d.running {
		if early, ok := m.(mode.Early); ok {
			early.AwaitWatch(ctx)
		}
	}
}
