package keeper

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/proxy"
)

const (
	// handOverAfter is the age at which a connection is worth keeping.
	handOverAfter = time.Second
	// patience is how long the keeper may take to take a message.
	patience = 5 * time.Second
	// firstPause and longestPause bound the time before a keeper that died, or did
	// not start, is started again.
	firstPause, longestPause = time.Second, time.Minute
)

// Keeper is the daemon's side. Make one with New, show it every connection with
// Keep, and run it with Run.
type Keeper struct {
	command []string
	log     *slog.Logger

	mu       sync.Mutex
	dir      *rundir.Dir // where the process claims what it carries; nil if nowhere
	entries  slab[keptConnection]
	fresh    []youngConnection // not handed over yet, as they came; some have ended
	released []uint64          // handed over, and ended since
	awake    bool              // Run will look at fresh without being woken
	wake     chan struct{}
}

// keptConnection is a connection that lives.
type keptConnection struct {
	conn   proxy.Connection
	handed bool
}

// youngConnection is a connection that may be too young to be handed over.
type youngConnection struct {
	number uint64
	since  time.Time
}

// handover is a connection for the keeper; it may end any time.
type handover struct {
	number uint64
	conn   proxy.Connection
}

// New makes a Keeper whose process is command, to be started when the first
// connection is to be handed over. It finds the socket at its descriptor 3.
func New(command []string, log *slog.Logger) *Keeper {
	return &Keeper{command: command, log: log, wake: make(chan struct{}, 1)}
}

// ClaimIn has every process that is started from now on say in dir what it carries when the
// daemon has died, so that nobody takes rules away which that needs.
func (k *Keeper) ClaimIn(dir *rundir.Dir) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dir = dir
}

// start starts a process.
func (k *Keeper) start(ctx context.Context) (*child, error) {
	k.mu.Lock()
	dir := k.dir
	k.mu.Unlock()
	var claimed *rundir.Claim
	if dir != nil {
		var err error
		if claimed, err = dir.MakeClaim(); err != nil {
			k.log.Warn("connections that outlive the daemon would break when rules are removed", "error", err, hint.Attr(err))
		}
	}
	return spawn(ctx, k.command, claimed)
}

// Keep has a connection handed over once it is a second old. It is for a proxy.Server.
func (k *Keeper) Keep(conn proxy.Connection) (number uint64) {
	since := conn.Live().Accepted
	k.mu.Lock()
	defer k.mu.Unlock()
	number = k.entries.put(keptConnection{conn: conn})
	k.fresh = append(k.fresh, youngConnection{number, since})
	if !k.awake {
		k.awake = true
		k.rouse()
	}
	return number
}

// Release says that a connection has ended, or is about to be closed.
func (k *Keeper) Release(number uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries.at(number); e != nil && e.handed {
		k.released = append(k.released, number)
		k.rouse()
	}
	k.entries.remove(number)
}

func (k *Keeper) rouse() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run hands connections over until ctx ends, and then sends the keeper away. That
// there is no keeper is logged and costs no connection anything.
func (k *Keeper) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var c *child
	defer func() { c.dismiss() }()
	pauses := backoff.Backoff{Base: firstPause, Max: longestPause}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.ended():
			k.log.Warn("the process that keeps connections for the daemon's death has ended; starting another", "error", c.err)
			c = nil
			k.takeBack()
			timer.Reset(firstPause)
			continue
		case <-k.wake:
		case <-timer.C:
		}
		due, released, next := k.work(time.Now())
		if c == nil && len(due) > 0 {
			var err error
			if c, err = k.start(ctx); err != nil {
				pause := pauses.Next()
				k.log.Warn("connections would not survive the daemon's death", "error", err, "retry_in", pause.String())
				c = nil
				k.takeBack()
				timer.Reset(pause)
				continue
			}
			pauses.Reset()
		}
		if c != nil {
			c.send(due, released)
		}
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// work takes what there is to tell the keeper, and how long it is until there is
// more to hand over: 0 if nothing waits.
func (k *Keeper) work(now time.Time) (due []handover, released []uint64, next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, f := range k.fresh {
		e := k.entries.at(f.number)
		if e == nil { // it has ended
			n++
			continue
		}
		if age := now.Sub(f.since); age < handOverAfter {
			next = handOverAfter - age
			break
		}
		e.handed = true
		due = append(due, handover{f.number, e.conn})
		n++
	}
	k.fresh = k.fresh[n:]
	if len(k.fresh) == 0 {
		k.fresh = nil // let go of what was cut off
	}
	k.awake = next > 0
	released, k.released = k.released, nil
	return due, released, next
}

// takeBack makes every connection wait to be handed over again, to another keeper.
func (k *Keeper) takeBack() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fresh, k.released = nil, nil
	for number, e := range k.entries.all() {
		e.handed = false
		k.fresh = append(k.fresh, youngConnection{number, e.conn.Live().Accepted})
	}
	k.awake = true
}
