package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// serveControl answers at the control sockets until closed; stop ends the conversations
// as well. Without a socket, because somebody else has the name, all is served but the
// requests. No handover begins once ctx has ended.
func (a *agent) serveControl(ctx context.Context) (closed, stop func()) {
	talking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	listening, closed := context.WithCancel(talking)
	server := &control.Server{
		Log: a.log, Shared: a.cfg.RunDirShared,
		Handlers: map[string]control.Handler{
			handover.Request: func(_ context.Context, c *control.Conn, r control.Request) { a.handOver(ctx, c, r) },
			control.Reload:   a.answerReload,
		},
	}
	if a.dir == nil {
		return closed, func() { cancel(); closed() } // openRunDir has said why
	}
	var serving sync.WaitGroup
	for _, address := range a.controlAddresses() {
		listener, err := control.Listen(a.dir, a.dir.Socket(address), func(name string) *rundir.Lock { return a.inherited.TakeLock(a.dir, name) })
		if err != nil {
			a.log.Warn("this daemon can be neither reloaded nor taken over by a command", "error", err, hint.Attr(err))
			continue
		}
		remove := a.registry.Add(handover.Socket{Role: handover.LockFile}, listener.Lock().File())
		context.AfterFunc(listening, remove)
		serving.Go(func() {
			server.Serve(talking, listening, listener.UnixListener)
			if a.given.Load() {
				listener.Leave()
			} else {
				listener.Release()
			}
		})
	}
	return closed, func() {
		cancel()
		closed()
		serving.Wait()
	}
}

// answerReload does what SIGHUP does, and says what became of it.
func (a *agent) answerReload(ctx context.Context, c *control.Conn, _ control.Request) {
	ctx, cancel := context.WithTimeout(ctx, control.ReloadPatience)
	defer cancel()
	_ = c.Send(control.AnswerOf(a.reload(ctx))) // a peer that has left asks for nothing
}

// successor is a new daemon that accepts.
type successor struct {
	quiet chan struct{} // closed when we open no more sockets and let the rules be
	told  chan struct{} // closed when it knows of them all
}

var errBusy = errors.New("another daemon is just taking over")

// handOver hands everything to the peer, unless ctx ends before that accepts. Once we are to
// end, a peer that comes anew gets no answer: it serves in our place when we have ended.
func (a *agent) handOver(ctx context.Context, c *control.Conn, r control.Request) {
	select {
	case a.giving <- struct{}{}:
	default:
		if !a.stopping.Load() {
			_ = c.Send(control.AnswerOf(errBusy))
		}
		return
	}
	defer func() { <-a.giving }()
	a.log.Info("another daemon is taking over", "version", r.Program, "process", r.Process)
	d := &successor{quiet: make(chan struct{}), told: make(chan struct{})}
	err := handover.Give(ctx, c, &a.registry, func() {
		a.given.Store(true)
		select {
		case a.handing <- d:
			<-d.quiet
		case <-ctx.Done(): // stopping has come first; the new daemon mends the rules
		}
	})
	switch {
	case err == nil:
		close(d.told)
	case ctx.Err() != nil:
		a.log.Warn("the other daemon has not taken over in time; stopping all the same", "error", err,
			"hint", "it serves when this one has ended; see: ambassadord doctor")
	default:
		a.log.Warn("the other daemon has not taken over; going on", "error", err, hint.Attr(err))
	}
}

// awaitSuccessor returns when no daemon is taking over, and none will any more. We have been
// told to end: if we did while one takes over, it would give up, and nobody would serve. It
// has until deadline, unless ctx ends before, or hurry is closed.
func (a *agent) awaitSuccessor(ctx context.Context, hurry <-chan struct{}) {
	a.stopping.Store(true)
	deadline := a.deadline()
	select {
	case a.giving <- struct{}{}:
		return
	default:
	}
	a.log.Info("stopping as soon as the daemon that takes over accepts", "drain_timeout", a.tuned().cfg.DrainTimeout.String())
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case a.giving <- struct{}{}:
	case <-timer.C:
	case <-hurry:
	case <-ctx.Done():
	}
}

// deadline is when all that we wait for before we end has had its time: Config.DrainTimeout
// from the first call on. It is called when we have been told to end. A daemon that takes over
// and connections that end share it, so that a service manager, which kills who takes longer
// than it allows, has to allow no more than that, and the time to remove rules.
func (a *agent) deadline() time.Time {
	a.deadlineOnce.Do(func() { a.deadlineAt = time.Now().Add(a.tuned().cfg.DrainTimeout) })
	return a.deadlineAt
}
