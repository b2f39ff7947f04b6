package logbudget

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"
)

// lost is what one line tells.
type lost struct {
	kind
	name  string
	lines int
}

// arm has it told soon that something was left out. It is called with mu held.
func (b *budget) arm() {
	if b.timer == nil {
		b.timer = time.AfterFunc(toldEvery, b.tell)
	}
}

// tell writes how many lines were left out, of which kind and whose: the most first, and
// all the rest in one.
func (b *budget) tell() {
	all := b.takeLost()
	slices.SortFunc(all, func(x, y lost) int {
		return cmp.Or(cmp.Compare(y.lines, x.lines), cmp.Compare(x.message, y.message), cmp.Compare(x.name, y.name))
	})
	rest := all[min(len(all), mostTold-1):]
	if len(rest) == 1 {
		rest = nil
	}
	for _, l := range all[:len(all)-len(rest)] {
		b.write(l.level, append([]slog.Attr{slog.String("of", l.message)}, l.attrs()...))
	}
	if len(rest) > 0 {
		lines, level := 0, slog.LevelInfo
		for _, l := range rest {
			lines, level = lines+l.lines, max(level, l.level)
		}
		b.write(level, []slog.Attr{slog.String("of", "other kinds"), slog.Int("kinds", len(rest)), slog.Int("lines", lines)})
	}
}

func (l *lost) attrs() []slog.Attr {
	var attrs []slog.Attr
	if l.reason != "" {
		attrs = append(attrs, slog.String("reason", l.reason))
	}
	if key := keys[l.who.from]; key != "" {
		attrs = append(attrs, slog.String(key, l.name))
	}
	return append(attrs, slog.Int("lines", l.lines))
}

func (b *budget) write(level slog.Level, attrs []slog.Attr) {
	ctx := context.Background()
	if !b.next.Enabled(ctx, level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, "log lines were left out, for there were too many of them", 0)
	r.AddAttrs(attrs...)
	_ = b.next.Handle(ctx, r) // its error has nowhere to go
}

// takeLost returns what was left out, and begins to count anew.
func (b *budget) takeLost() []lost {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	var all []lost
	for k, state := range b.kinds {
		if state.lost > 0 {
			all = append(all, lost{k, state.name, state.lost})
			state.lost = 0
		}
	}
	return all
}
