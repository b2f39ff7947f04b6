// Package events keeps the last things that the daemon has told of, for those who ask later and for those
// who watch: what the log says, but for connections that ended well, which are many.
//
// Handler stands between what bounds the log and what writes it, so no client can displace the events of others
// faster than it could fill the log. An event is written as JSON once, when it happens. A watcher has no queue:
// it asks for what came after the last event that it has, and is told when that is gone already.
package events

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/status"
)

const (
	// mostEvents is how many are kept.
	mostEvents = 2000
	// mostBytes is how many bytes their fields have at most.
	mostBytes = 1 << 20
)

// Log has the last events. The zero value has none.
type Log struct {
	mu      sync.Mutex
	kept    []status.Event // the oldest first
	bytes   int            // of the kept fields
	last    uint64         // ID
	dropped uint64         // ID of the last event that is not kept any more; 0 for none
	news    chan struct{}  // closed at the next event; nil while nobody waits
}

// add keeps an event, and gives it its ID.
func (l *Log) add(e status.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.ID = max(l.last+1, uint64(max(0, e.Time.UnixMicro())))
	l.last = e.ID
	l.kept = append(l.kept, e)
	l.bytes += len(e.Fields)
	gone := 0
	for len(l.kept)-gone > mostEvents || l.bytes > mostBytes && gone < len(l.kept)-1 {
		l.bytes -= len(l.kept[gone].Fields)
		l.dropped = l.kept[gone].ID
		l.kept[gone] = status.Event{}
		gone++
	}
	l.kept = l.kept[gone:]
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

// After is the events after the one with that ID, the oldest first, and whether there were others among
// them that are not kept any more. The events are not to be changed.
func (l *Log) After(id uint64) (events []status.Event, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after(id)
}

func (l *Log) after(id uint64) ([]status.Event, bool) {
	at := len(l.kept)
	for at > 0 && l.kept[at-1].ID > id {
		at--
	}
	return append([]status.Event(nil), l.kept[at:]...), id < l.dropped
}

// Wait is After once there is one, or ctx has ended: then there is none.
func (l *Log) Wait(ctx context.Context, id uint64) (events []status.Event, lost bool) {
	for {
		l.mu.Lock()
		if l.last > id {
			events, lost = l.after(id)
			l.mu.Unlock()
			return events, lost
		}
		if l.news == nil {
			l.news = make(chan struct{})
		}
		news := l.news
		l.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// Handler is a slog.Handler that keeps events, and hands every record to another one.
type Handler struct {
	next   slog.Handler
	log    *Log
	encode *encoder
	fields slog.Handler // writes to encode
	quiet  string       // records with this message are events from level Warn on
}

var _ slog.Handler = (*Handler)(nil)

// Handler returns one that hands records to next. Records whose message is quiet are events only where
// they are warnings or errors.
func (l *Log) Handler(next slog.Handler, quiet string) *Handler {
	e := new(encoder)
	return &Handler{next: next, log: l, encode: e, quiet: quiet, fields: slog.NewJSONHandler(&e.buffer, &slog.HandlerOptions{
		Level:       slog.LevelDebug,
		ReplaceAttr: shown,
	})}
}

// encoder writes the fields of one record at a time.
type encoder struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

// shown leaves out what an Event has fields of its own for, and passwords.
func shown(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 {
		switch a.Key {
		case slog.TimeKey, slog.LevelKey, slog.MessageKey:
			return slog.Attr{}
		}
	}
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(status.Redacted(v))
	case error:
		a.Value = slog.StringValue(status.Redacted(v.Error()))
	}
	return a
}

// Enabled is next's.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle keeps r, if it is an event, and hands it on.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn || r.Message != h.quiet {
		h.keep(ctx, r)
	}
	return h.next.Handle(ctx, r)
}

func (h *Handler) keep(ctx context.Context, r slog.Record) {
	e := status.Event{Time: r.Time, Level: strings.ToLower(r.Level.String()), Message: r.Message}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	h.encode.mu.Lock()
	h.encode.buffer.Reset()
	err := h.fields.Handle(ctx, r)
	e.Fields = json.RawMessage(bytes.Clone(bytes.TrimSpace(h.encode.buffer.Bytes())))
	h.encode.mu.Unlock()
	if err != nil || !json.Valid(e.Fields) {
		e.Fields = json.RawMessage("{}")
	}
	h.log.add(e)
}

// WithAttrs is part of slog.Handler, as is WithGroup.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.next, with.fields = h.next.WithAttrs(attrs), h.fields.WithAttrs(attrs)
	return &with
}

// WithGroup is likewise.
func (h *Handler) WithGroup(name string) slog.Handler {
	with := *h
	with.next, with.fields = h.next.WithGroup(name), h.fields.WithGroup(name)
	return &with
}
