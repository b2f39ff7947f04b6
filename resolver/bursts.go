package resolver

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// An outage fails every watch of a registry, and there may be thousands: of lines that
// say the same of one scheme, the first burstLines within burstTime are logged, and
// then how many more there were. Those are logged too, at level debug.
const (
	burstLines = 10
	burstTime  = time.Second
	// burstOwners is of how many clients one line each is logged beyond burstLines: what
	// one of them has wrong is not to hide what happens to another.
	burstOwners = 100
)

// bursts logs what watches have to say.
type bursts struct {
	log *slog.Logger

	mu   sync.Mutex
	open map[burstKind]*burst
}

// burstKind is what lines have in common.
type burstKind struct {
	scheme, message string
	level           slog.Level
}

// burst is the lines of one kind within burstTime of the first.
type burst struct {
	logged, more int
	owners       map[string]struct{} // that have had a line
	over         *time.Timer
}

func newBursts(log *slog.Logger) *bursts {
	return &bursts{log: log, open: map[burstKind]*burst{}}
}

// say logs a line about q, which is owner's; "" is the operator.
func (b *bursts) say(level slog.Level, q Query, owner, message string, attrs ...any) {
	if level >= slog.LevelInfo && !b.room(burstKind{q.Scheme, message, level}, owner) {
		level = slog.LevelDebug
	}
	about := []any{"target", q.String()}
	if owner != "" {
		about = append(about, "client", owner)
	}
	b.log.Log(context.Background(), level, message, append(about, attrs...)...)
}

// room says whether one more line of a kind is to be seen, and counts it.
func (b *bursts) room(kind burstKind, owner string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	one := b.open[kind]
	if one == nil {
		one = &burst{owners: map[string]struct{}{}}
		one.over = time.AfterFunc(burstTime, func() { b.end(kind) })
		b.open[kind] = one
	}
	if one.logged < burstLines {
		one.logged++
		one.owners[owner] = struct{}{}
		return true
	}
	if _, had := one.owners[owner]; !had && len(one.owners) < burstOwners {
		one.owners[owner] = struct{}{}
		return true
	}
	one.more++
	return false
}

// end says how many lines of a burst were not to be seen.
func (b *bursts) end(kind burstKind) {
	b.mu.Lock()
	one := b.open[kind]
	delete(b.open, kind)
	b.mu.Unlock()
	if one == nil {
		return
	}
	one.over.Stop()
	if one.more > 0 {
		b.log.Log(context.Background(), kind.level, kind.message+", for more targets", "scheme", kind.scheme, "more", one.more)
	}
}

// close ends all bursts.
func (b *bursts) close() {
	b.mu.Lock()
	kinds := make([]burstKind, 0, len(b.open))
	for kind := range b.open {
		kinds = append(kinds, kind)
	}
	b.mu.Unlock()
	for _, kind := range kinds {
		b.end(kind)
	}
}
