package keeper

import (
	"context"
	"log/slog"
	"sync"
	"time"

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
	next     uint64
	live     map[uint64]*entry
	fresh    []*entry // not handed over yet, as they came; some have ended
	released []uint64 // handed over, and ended since
	awake    bool     // Run will look at fresh without being woken
	wake     chan struct{}
}

// entry is a connection that lives.
type entry struct {
	id     uint64
	since  time.Time
	conn   proxy.Connection
	handed bool
	ended  bool
}

// handover is a connection for the keeper; it may end any time.
type handover struct {
	id   uint64
	conn proxy.Connection
}

// New makes a Keeper whose process is command, to be started when the first
// connection is to be handed over. It finds the socket at its descriptor 3.
func New(command []string, log *slog.Logger) *Keeper {
	return &Keeper{command: command, log: log, live: map[uint64]*entry{}, wake: make(chan struct{}, 1)}
}

// Keep has a connection handed over once it is a second old; release says that it
// has ended, or is about to be closed. It is a proxy.Server's Keep.
func (k *Keeper) Keep(conn proxy.Connection) (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	e := &entry{id: k.next, since: conn.Live().Accepted, conn: conn}
	k.live[e.id] = e
	k.fresh = append(k.fresh, e)
	if !k.awake {
		k.awake = true
		k.rouse()
	}
	return func() { k.release(e) }
}

func (k *Keeper) release(e *entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.live, e.id)
	e.ended = true
	e.conn = nil // fresh may hold e for a second
	if e.handed {
		k.released = append(k.released, e.id)
		k.rouse()
	}
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
	pause := firstPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.ended():
			k.log.Warn("the process that keeps connections for the daemon's death has ended; starting another", "error", c.err)
			c = nil
			k.takeBack()
			timer.Reset(pause)
			continue
		case <-k.wake:
		case <-timer.C:
		}
		due, released, next := k.work(time.Now())
		if c == nil && len(due) > 0 {
			var err error
			if c, err = spawn(ctx, k.command); err != nil {
				k.log.Warn("connections would not survive the daemon's death", "error", err, "retry_in", pause.String())
				c = nil
				k.takeBack()
				timer.Reset(pause)
				pause = min(2*pause, longestPause)
				continue
			}
			pause = firstPause
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
	for _, e := range k.fresh {
		if e.ended {
			n++
			continue
		}
		if age := now.Sub(e.since); age < handOverAfter {
			next = handOverAfter - age
			break
		}
		e.handed = true
		due = append(due, handover{e.id, e.conn})
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
	for _, e := range k.live {
		e.handed = false
		k.fresh = append(k.fresh, e)
	}
	k.awake = true
}
