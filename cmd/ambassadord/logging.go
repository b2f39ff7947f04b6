package main

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/logbuffer"
	"github.com/ambassadord/ambassadord/internal/printable"
)

// newLogger makes a logger of the level and format that cfg says.
func newLogger(cfg config.Config, w io.Writer) *slog.Logger { return slog.New(newHandler(cfg, w)) }

func newHandler(cfg config.Config, w io.Writer) slog.Handler {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.NewJSONHandler(printable.Writer(w), options)
	}
	return slog.NewTextHandler(w, options)
}

// logRoom is how much of the log may wait for whoever reads it: thousands of lines.
const logRoom = 1 << 20

// newDaemonLogger is newLiveLogger for a process that must not wait for whoever reads its
// log. flush is to be called at its end.
func newDaemonLogger(cfg config.Config, w io.Writer) (log *slog.Logger, retune func(config.Config), flush func()) {
	buffer := logbuffer.New(w, logRoom, func(lines int) {
		log.Warn("log lines were dropped: whoever reads the log is too slow", "lines", lines,
			"hint", "set --log-level warn, or have the log read faster")
	})
	log, retune = newLiveLogger(cfg, buffer)
	go buffer.Run()
	return log, retune, buffer.Close
}

// newLiveLogger is newLogger, and a function that gives the logger, and all that were
// made from it, the level and format of another Config.
func newLiveLogger(cfg config.Config, w io.Writer) (*slog.Logger, func(config.Config)) {
	var current atomic.Pointer[slog.Handler]
	set := func(cfg config.Config) {
		h := newHandler(cfg, w)
		current.Store(&h)
	}
	set(cfg)
	return slog.New(liveHandler{current: &current}), set
}

// liveHandler hands records to the handler that is current.
type liveHandler struct {
	current *atomic.Pointer[slog.Handler]
	derive  func(slog.Handler) slog.Handler // adds attributes and groups; nil adds none
}

func (h liveHandler) handler() slog.Handler {
	if h.derive == nil {
		return *h.current.Load()
	}
	return h.derive(*h.current.Load())
}

func (h liveHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*h.current.Load()).Enabled(ctx, level)
}

func (h liveHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.handler().Handle(ctx, r)
}

func (h liveHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

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
