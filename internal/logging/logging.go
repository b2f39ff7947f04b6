// Package logging makes the log of our processes: of a level and format, without what would fill it,
// and, for a process that runs for long, by a buffer that nothing waits for.
package logging

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/internal/logbudget"
	"github.com/ambassadord/ambassadord/internal/logbuffer"
	"github.com/ambassadord/ambassadord/internal/printable"
)

// New makes a logger of the level and format that cfg says, which writes to w at once.
func New(cfg config.Config, w io.Writer) *slog.Logger {
	return slog.New(logbudget.Shorten(newHandler(cfg, w)))
}

func newHandler(cfg config.Config, w io.Writer) slog.Handler {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.NewJSONHandler(printable.Writer(w), options)
	}
	return slog.NewTextHandler(w, options)
}

// mostBuffered is how much of the log may wait for its reader: thousands of lines.
const mostBuffered = 1 << 20

// NewBuffered is New for a process that runs for long: it must not wait for the reader of its
// log, nor end with that reader, nor let a client fill the log. change gives it the level and
// format of another Config; flush is to be called at its end. kept, unless it is nil, keeps what was told.
func NewBuffered(cfg config.Config, w io.Writer, kept *events.Log) (log *slog.Logger, change func(config.Config), flush func()) {
	outliveReader()
	buffer := logbuffer.New(w, mostBuffered, func(lines int) {
		log.Warn("log lines were dropped: whoever reads the log is too slow", "lines", lines,
			"hint", "set --log-level warn, or have the log read faster, and without a break")
	})
	live, change := newLiveHandler(cfg, buffer)
	log, flush = buffered(live, buffer, kept)
	return log, change, flush
}

// NewApart is NewBuffered for lines that have a place of their own, w, which is no reader that ends. dropped is told
// how many had no room, or could not be written; it may log elsewhere.
func NewApart(cfg config.Config, w io.Writer, kept *events.Log, dropped func(lines int)) (log *slog.Logger, flush func()) {
	buffer := logbuffer.New(w, mostBuffered, dropped)
	return buffered(newHandler(cfg, buffer), buffer, kept)
}

// buffered is a log whose handler writes to buffer, and which kept, unless it is nil, keeps.
func buffered(handler slog.Handler, buffer *logbuffer.Writer, kept *events.Log) (log *slog.Logger, flush func()) {
	if kept != nil {
		handler = kept.Handler(handler, logbudget.Connection)
	}
	budget := logbudget.New(handler)
	go buffer.Run()
	return slog.New(budget), func() {
		budget.Flush()
		buffer.Close()
	}
}

// newLiveHandler is newHandler, and a function that gives the handler, and all that were
// made from it, the level and format of another Config.
func newLiveHandler(cfg config.Config, w io.Writer) (slog.Handler, func(config.Config)) {
	var current atomic.Pointer[levelled]
	set := func(cfg config.Config) {
		current.Store(&levelled{newHandler(cfg, w), cfg.LogLevel})
	}
	set(cfg)
	return liveHandler{current: &current}, set
}

// levelled is a handler, and the level that it has: each connection asks whether a line of its
// level is written, and the handler would take two calls to say so.
type levelled struct {
	slog.Handler

	level slog.Level
}

// liveHandler hands records to the handler that is current.
type liveHandler struct {
	current *atomic.Pointer[levelled]
	derive  func(slog.Handler) slog.Handler // adds attributes and groups; nil adds none
}

func (h liveHandler) handler() slog.Handler {
	if h.derive == nil {
		return h.current.Load().Handler
	}
	return h.derive(h.current.Load().Handler)
}

// Enabled is part of slog.Handler, as are the following.
func (h liveHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.current.Load().level
}

// Handle hands r to the handler that is current now.
func (h liveHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.handler().Handle(ctx, r)
}

// WithAttrs is of the handler that is current at each record, too.
func (h liveHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

// WithGroup is likewise.
func (h liveHandler) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h liveHandler) with(add func(slog.Handler) slog.Handler) slog.Handler {
	before := h.derive
	if before == nil {
		before = func(to slog.Handler) slog.Handler { return to }
	}
	return liveHandler{current: h.current, derive: func(to slog.Handler) slog.Handler { return add(before(to)) }}
}

// outliveReader keeps the process alive, for the rest of its life, when the reader of its
// standard error has ended: a write then fails, and the line is lost. Without this Go ends
// a process with SIGPIPE, and a daemon would leave its rules behind. The signal is not
// ignored, for that children would inherit.
func outliveReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
