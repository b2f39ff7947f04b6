package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/abstract"
	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/mode/attach"
	"github.com/ambassadord/ambassadord/internal/mode/link"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

const (
	// adoptionPatience is how long the engine may take to say who is there, and the
	// guard to bind them, until a takeover is given up.
	adoptionPatience = 30 * time.Second
	// leftoverPatience is how long sockets are kept for containers that are just
	// starting, before those that nobody has taken are closed.
	leftoverPatience = attach.OwnerPatience
	// successionPatience is for how long we try to take the place of a daemon that has ended
	// the conversation: it may carry its connections to their end, or have ended already.
	successionPatience = 10 * time.Minute
	// goneEvery is how often we look whether the old daemon is there.
	goneEvery = 100 * time.Millisecond
	// goneFor bounds one wait for its end, after which we build everything anew and ask it
	// again: it is of an older version, and broke off for another reason, or yet another
	// daemon has taken over from it.
	goneFor = time.Minute
)

// takeOver receives the sockets of the daemon that runs, if one does. From then on, and
// until adopted, that daemon serves: its rules are not to be touched.
func (d *daemon) takeOver(ctx context.Context) (*handover.Session, error) {
	if !d.cfg.TakeOver {
		return nil, nil
	}
	c, err := d.predecessor().dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if c == nil {
		if d.succeeding { // said when we serve
			return nil, nil
		}
		d.log.Info("no other daemon is there to take over from")
		return nil, nil
	}
	if peer, err := c.Peer(); err == nil {
		d.oldPID = peer.PID
		peer.Close()
	}
	session, err := handover.Begin(ctx, c, d.cfg.Program, d.sockets.Receive())
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	d.turn.Borrowed()
	d.before = d.counters.Predecessor()
	session.Counts = func(packet json.RawMessage) {
		if err := d.before.Add(packet); err != nil {
			d.log.Debug("metrics do not go on where those of the old daemon were", "error", err)
		}
	}
	return session, nil
}

// mostCounters bounds the note of a daemon's counters, in bytes.
const mostCounters = 8 << 20

// leaveCounters leaves our counters in the folder, for a daemon that is started when we have ended.
func (p predecessor) leaveCounters() {
	addresses := p.addresses()
	if p.dir == nil || len(addresses) == 0 {
		return
	}
	var note []byte
	for _, packet := range p.counters.Ledger(p.server.Moved).News() {
		if len(note)+len(packet) >= mostCounters {
			break
		}
		note = append(append(note, packet...), '\n')
	}
	if note == nil {
		return
	}
	if err := p.dir.WriteNote(p.dir.Counters(addresses[0]), note); err != nil {
		p.log.Warn("the metrics of the next daemon will begin at 0", "error", err, "hint", "make room in the file system of --run-dir")
	}
}

// recallCounters adds the counters that a daemon has left, which ended before we were started. One that
// was killed has left none.
func (p predecessor) recallCounters() {
	addresses := p.addresses()
	if p.dir == nil || len(addresses) == 0 {
		return
	}
	note, err := p.dir.TakeNote(p.dir.Counters(addresses[0]), mostCounters)
	before := p.counters.Predecessor()
	for packet := range bytes.Lines(note) {
		if err == nil {
			err = before.Add(packet)
		}
	}
	before.Ended()
	if err != nil {
		p.log.Warn("the metrics do not go on where those of the daemon before were", "error", err, "hint", "none is needed: they count from here on")
	}
}

// predecessor is how the daemon before us is found.
type predecessor struct{ *parts }

func (d *daemon) predecessor() predecessor { return predecessor{d.parts} }

// dial reaches the daemon that has one of our addresses; nil if there is none. One
// that is older than the folder is looked for at the abstract names that it has, and
// believed only with evidence.
func (p predecessor) dial(ctx context.Context) (*control.Conn, error) {
	addresses := p.addresses()
	if p.dir != nil {
		for _, address := range addresses {
			c, err := control.Dial(p.dir.Path(p.dir.Socket(address)))
			if !errors.Is(err, control.ErrNobody) {
				return c, err
			}
		}
	}
	for _, address := range addresses {
		c, err := abstract.Dial(ctx, abstract.Control(address))
		if squatter := (*abstract.Squatter)(nil); errors.As(err, &squatter) {
			p.log.Warn("not taking over from a process that may be anybody's", "error", err,
				"hint", "if it is an older ambassadord in a container, stop it first; else end it")
			continue
		}
		if !errors.Is(err, abstract.ErrNobody) {
			return c, err
		}
	}
	return nil, nil
}

// awaitGone returns when no daemon has our addresses, or in a while. It is called after serve.
func (p predecessor) awaitGone(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goneFor)
	defer cancel()
	for p.held(ctx) {
		select {
		case <-time.After(goneEvery):
		case <-ctx.Done():
			return
		}
	}
}

// held reports whether a daemon has one of our addresses, in the folder or, if it is older
// than that, at an abstract name.
func (p predecessor) held(ctx context.Context) bool {
	addresses := p.addresses()
	if p.dir != nil {
		if p.hostWide() && p.dir.Held(p.dir.HostLock()) {
			return true
		}
		for _, address := range addresses {
			if control.Held(p.dir, p.dir.Socket(address)) {
				return true
			}
		}
	}
	if p.hostWide() && abstract.Runs(ctx) {
		return true
	}
	return slices.ContainsFunc(addresses, func(address string) bool {
		return abstract.Daemon(ctx, abstract.Control(address)) == nil
	})
}

// adopt makes the handover true once we accept on every socket that we have a use for.
// On an error the old daemon serves on.
func (d *daemon) adopt(ctx context.Context, session *handover.Session) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, adoptionPatience, fmt.Errorf("it took more than %s", adoptionPatience))
	defer cancel()
	if err := d.learnWhoIsThere(ctx, session); err != nil {
		return err
	}
	d.awaitWatch(ctx) // who watches until then ends when we accept
	for _, m := range d.running {
		if err := m.Ready(ctx); err != nil {
			return fmt.Errorf("take over: %w", err)
		}
	}
	if err := session.Accepting(); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	if err := session.Finish(); err != nil {
		d.log.Warn("took over, but not all", "error", err, hint.Attr(err))
	}
	d.turn.Take()
	d.hostLock.Claim(d.log)
	d.log.Info("took over", "sockets", d.sockets.Adopted(), "took", time.Since(began).Round(time.Millisecond).String())
	return nil
}

// learnWhoIsThere returns when the containers that are there have been followed.
func (d *daemon) learnWhoIsThere(ctx context.Context, session *handover.Session) error {
	look := time.NewTicker(goneEvery)
	defer look.Stop()
	for {
		select {
		case <-d.follower.followed:
			return nil
		case <-look.C:
			if session.Gone() {
				return errors.New("take over: learn who is there: there was no time for it")
			}
		case <-ctx.Done():
			err := context.Cause(ctx)
			if d.engine != nil && d.engine.Err() != nil {
				err = errors.Join(err, d.engine.Err())
			}
			return fmt.Errorf("take over: learn who is there: %w", err)
		}
	}
}

// addresses say at which sockets our predecessor may be, and our successor will
// look: "" is the host's, the others are where a daemon listens. The socket of a daemon
// with several listeners has a name for each, so that its successor finds it although some of them
// have changed.
func (p predecessor) addresses() []string {
	var all []string
	if p.hostWide() {
		all = append(all, "")
	}
	if p.any(func(m mode.Row) bool { return m.Port }) {
		all = append(all, link.Address(p.cfg.Port))
	}
	for _, l := range p.cfg.Listeners {
		all = append(all, l.Address)
	}
	return all
}

// openRunDir opens the folder of locks and sockets. A daemon that serves no host does without.
func (d *daemon) openRunDir() error {
	dir, err := rundir.Open(d.cfg.RunDir)
	if err == nil {
		d.dir, d.staying.Dir = dir, dir
		if addresses := d.predecessor().addresses(); len(addresses) > 0 {
			d.endpoints.Dir, d.endpoints.Note = dir, dir.Decisions(addresses[0])
		}
		return nil
	}
	if d.hostWide() {
		return err
	}
	d.log.Warn("this daemon can be neither reloaded nor taken over by a command", "error", err, hint.Attr(err))
	return nil
}

// takeLock takes the host's lock, which the daemon before us may have handed over. unlock
// gives it up, or lets go of our own hold alone if another daemon has it from us, or the
// one before us has not let go and has it still.
func (d *daemon) takeLock(ctx context.Context) (unlock func(), err error) {
	if !d.hostWide() {
		return func() {}, nil
	}
	l, err := handover.TakeHostLock(ctx, d.dir, d.sockets.Inherited(), d.log)
	if err != nil {
		return nil, err
	}
	if d.hostLock = l; d.turn.Ours() {
		l.Claim(d.log)
	}
	remove := l.Register(d.sockets.Registry())
	return func() {
		remove()
		if d.giver.hasGiven() || !d.turn.Ours() {
			l.Leave()
		} else {
			l.Release()
		}
	}, nil
}

// succeed tidies up after a daemon that has handed over, or has left its sockets with the
// service manager: those that we have no use for, and the rules that led there. It goes on
// in the background until ctx ends. Until ended is called, too, what the daemon counts that has
// handed over is counted as ours.
func (d *daemon) succeed(ctx context.Context, session *handover.Session) (ended func()) {
	var wg sync.WaitGroup
	counting, stop := context.WithCancel(context.WithoutCancel(ctx)) // we may hand over ourselves meanwhile
	if session != nil {
		wg.Go(func() {
			if session.Follow(counting) {
				d.before.Ended()
				d.log.Debug("the metrics have all that the old daemon has counted")
			}
		})
	}
	ended = func() {
		stop()
		wg.Wait()
	}
	inherited := d.sockets.Inherited()
	if inherited == nil {
		return ended
	}
	wg.Go(func() {
		// A container may be just starting, and its sockets be wanted in a moment.
		d.leftovers.Close(inherited.RestOf(func(s handover.Socket) bool { return s.Namespace == netns.ID{} }))
		select {
		case <-time.After(leftoverPatience):
		case <-ctx.Done():
		}
		d.leftovers.Close(inherited.Rest())
		if d.leftovers.Any() && handover.AwaitDrained(ctx, d.dir) {
			d.leftovers.Drop()
		}
	})
	return ended
}
