// Package burstlog logs what thousands of watches have to say at once in a few lines.
package burstlog

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// An outage fails every watch of a registry, and there may be thousands: of lines that
// say the same of one scheme, the first Lines within Time are logged, and
// then how many more there were. Those are logged too, at level debug.
const (
	Lines = 10
	Time  = time.Second
	// mostOwners is of how many clients one line each is logged beyond Lines: what
	// one of them has wrong is not to hide what happens to another.
	mostOwners = 100
)

// Log logs what watches have to say.
type Log struct {
	log *slog.Logger

	mu   sync.Mutex
	open map[burstKind]*burst
}

// burstKind is what lines have in common.
type burstKind struct {
	scheme, message string
	level           slog.Level
}

// burst is the lines of one kind within Time of the first.
type burst struct {
	logged, more int
	owners       map[string]struct{} // that have had a line
	over         *time.Timer
}

// New makes a Log that writes to log.
func New(log *slog.Logger) *Log {
	return &Log{log: log, open: map[burstKind]*burst{}}
}

// Say logs a line about a target of scheme, which is owner's; "" is the operator.
func (l *Log) Say(level slog.Level, scheme, target, owner, message string, attrs ...any) {
	if level >= slog.LevelInfo && !l.room(burstKind{scheme, message, level}, owner) {
		level = slog.LevelDebug
	}
	about := []any{"target", target}
	if owner != "" {
		about = append(about, "client", owner)
	}
	l.log.Log(context.Background(), level, message, append(about, attrs...)...)
}

// room says whether one more line of a kind is to be seen, and counts it.
func (l *Log) room(kind burstKind, owner string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.open[kind]
	if one == nil {
		one = &burst{owners: map[string]struct{}{}}
		one.over = time.AfterFunc(Time, func() { l.end(kind) })
		l.open[kind] = one
	}
	if one.logged < Lines {
		one.logged++
		one.owners[owner] = struct{}{}
		return true
	}
	if _, had := one.owners[owner]; !had && len(one.owners) < mostOwners {
		one.owners[owner] = struct{}{}
		return true
	}
	one.more++
	return false
}

// end says how many lines of a burst were not to be seen.
func (l *Log) end(kind burstKind) {
	l.mu.Lock()
	one := l.open[kind]
	delete(l.open, kind)
	l.mu.Unlock()
	if one == nil {
		return
	}
	one.over.Stop()
	if one.more > 0 {
		l.log.Log(context.Background(), kind.level, kind.message+", for more targets", "scheme", kind.scheme, "more", one.more)
	}
}

// Close ends all bursts.
func (l *Log) Close() {
	l.mu.Lock()
	kinds := make([]burstKind, 0, len(l.open))
	for kind := range l.open {
		kinds = append(kinds, kind)
	}
	l.mu.Unlock()
	for _, kind := range kinds {
		l.end(kind)
	}
}
