package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/metrics"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// serveControl answers at the control socket until closed; stop ends the conversations
// as well. Without a socket, because another process has each of its names, all is served but the
// requests. No handover begins once ctx has ended.
func (d *daemon) serveControl(ctx context.Context) (closed, stop func()) {
	talking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	listening, closed := context.WithCancel(talking)
	server := &control.Server{
		Log: d.log, Shared: d.cfg.RunDirShared,
		Handlers: map[string]control.Handler{
			handover.Request: func(_ context.Context, c *control.Conn, r control.Request) { d.handOver(ctx, c, r) },
			control.Reload:   d.answerReload,
		},
	}
	if d.dir == nil {
		return closed, func() { cancel(); closed() } // openRunDir has said why
	}
	var serving sync.WaitGroup
	if listener := d.listenControl(); listener != nil {
		for _, lock := range listener.Locks() {
			remove := d.sockets.Registry().Add(handover.Socket{Role: handover.LockFile}, lock.File())
			context.AfterFunc(listening, remove)
		}
		serving.Go(func() {
			server.Serve(talking, listening, listener.UnixListener)
			if d.giver.hasGiven() {
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

// listenControl listens at one control socket, which has a name for each address that we listen
// on; nil where it could have none.
func (d *daemon) listenControl() (listener *control.Listener) {
	inherited := func(name string) *rundir.Lock { return d.sockets.Inherited().TakeLock(d.dir, name) }
	unnamed, first := 0, "" // addresses that the socket could not be named by
	var why error           // of the first
	for _, address := range d.predecessor().addresses() {
		var err error
		if name := d.dir.Socket(address); listener == nil {
			listener, err = control.Listen(d.dir, name, inherited)
		} else {
			err = listener.Also(name, inherited)
		}
		if err != nil {
			if unnamed++; unnamed == 1 {
				first, why = address, err
			}
		}
	}
	switch {
	case unnamed == 0:
	case listener == nil:
		d.log.Warn("this daemon can be neither reloaded nor taken over by a command", "error", why, hint.Attr(why))
	default:
		d.log.Warn("a daemon that is to take over finds this one by its other addresses alone", "addresses", unnamed, "first", first, "error", why, hint.Attr(why))
	}
	return listener
}

// answerReload does what SIGHUP does, and says what became of it.
func (d *daemon) answerReload(ctx context.Context, c *control.Conn, _ control.Request) {
	ctx, cancel := context.WithTimeout(ctx, control.ReloadPatience)
	defer cancel()
	_ = c.Send(control.AnswerOf(d.reloads.reload(ctx))) // who has left asks for nothing
}

// successor is a new daemon that accepts.
type successor struct {
	quiet  chan struct{} // closed when we open no more sockets and let the rules be
	told   chan struct{} // closed when it knows of them all
	counts *metrics.Ledger
	conn   *control.Conn // when told is closed, to it; nil where that cannot be
}

// tell tells it what has been counted since it was told before. It reports whether it may be told again.
func (s *successor) tell(c *control.Conn) bool {
	return c != nil && handover.TellCounts(c, s.counts.News()) == nil
}

// countsEvery is how often a daemon that has handed over tells what it counts: as often as a scrape
// that may be thought frequent.
const countsEvery = 5 * time.Second

// tellOn tells it what is counted until over ends, and then for the last time.
func (s *successor) tellOn(over context.Context) {
	if s.conn == nil {
		return
	}
	defer s.conn.Close()
	ticker := time.NewTicker(countsEvery)
	defer ticker.Stop()
	for last := false; !last; {
		select {
		case <-ticker.C:
		case <-over.Done():
			last = true
		}
		if !s.tell(s.conn) { // it is older, or gone
			return
		}
	}
}

var errBusy = errors.New("another daemon is just taking over")

// handOver hands everything to the peer, unless ctx ends before that accepts. Once we are to
// end, a peer that comes anew gets no answer: it serves in our place when we have ended.
func (d *daemon) handOver(ctx context.Context, c *control.Conn, r control.Request) {
	if _, first := d.giver.on(asked); !first {
		if !d.giver.isEnding() {
			_ = c.Send(control.AnswerOf(errBusy))
		}
		return
	}
	defer d.giver.on(breaksOff) // unless it has accepted
	d.log.Info("another daemon is taking over", "version", r.Program, "process", r.Process)
	next := &successor{quiet: make(chan struct{}), told: make(chan struct{}), counts: d.counters.Ledger(d.server.Moved)}
	err := handover.Give(ctx, c, d.sockets.Registry(), func() {
		d.giver.on(accepts)
		select {
		case d.giver.handing <- next:
			<-next.quiet
			next.tell(c)
		case <-ctx.Done(): // stopping has come first; the new daemon mends the rules
		}
	})
	switch {
	case err == nil:
		if next.conn, err = c.Another(); err != nil {
			d.log.Debug("the new daemon is not told what is counted from now on", "error", err)
		}
		close(next.told)
		d.giver.on(hasAll)
	case ctx.Err() != nil:
		d.log.Warn("the other daemon has not taken over in time; stopping all the same", "error", err,
			"hint", "it serves when this one has ended; see: ambassadord doctor")
	default:
		d.log.Warn("the other daemon has not taken over; going on", "error", err, hint.Attr(err))
	}
}

// awaitSuccessor returns when no daemon is taking over, and none will any more. We have been
// told to end: if we did while one takes over, it would give up, and nobody would serve; if we did
// while it is told of our last sockets, it would not get them. It has until deadline, unless ctx
// ends before, or Hooks.Hurry is closed.
func (d *daemon) awaitSuccessor(ctx context.Context) {
	over, cancel := context.WithDeadline(ctx, d.deadline())
	defer cancel()
	d.giver.on(ends)
	if d.giver.has(closed, handedOver) {
		return
	}
	d.log.Info("stopping as soon as the daemon that takes over accepts", "drain_timeout", d.settings.Load().Config.DrainTimeout.String())
	d.giver.await(over.Done(), d.hooks.Hurry, closed, handedOver)
}
