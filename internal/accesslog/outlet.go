package accesslog

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/logfile"
	"github.com/ambassadord/ambassadord/internal/logging"
)

// toldEvery is how often the log says that lines were dropped, at most.
const toldEvery = time.Minute

// outlet is where lines go. Connections that end meanwhile may have one that was replaced; what they write to a file
// after it was flushed is written at once.
type outlet struct {
	handler slog.Handler // nil for no lines
	sample  int

	flush func() // nil where lines go to the daemon's log

	// Of a file:
	to, format string
	file       *logfile.File // nil for none
	lost       *lostLines
}

// Change has lines go where cfg says. It waits for no file. It is called by one goroutine at a time.
func (l *Log) Change(cfg config.Config) {
	before, a := l.out.Load(), cfg.AccessLog
	next := &outlet{sample: a.Sample}
	switch a.To {
	case config.AccessOff:
		if l.kept == nil {
			break
		}
		cfg.LogLevel = slog.LevelWarn
		log, flush := logging.NewApart(cfg, io.Discard, l.kept, func(int) {})
		next.handler, next.flush = log.Handler(), flush
	case config.AccessToLog:
		next.handler = l.own.Handler()
	default:
		if a.Format != "" {
			cfg.LogFormat = a.Format
		}
		if before.file != nil && before.to == a.To && before.format == cfg.LogFormat {
			*next = *before
			next.sample = a.Sample
			break
		}
		cfg.LogLevel = slog.LevelInfo // that of the daemon's log is not the file's
		next.to, next.format = a.To, cfg.LogFormat
		next.file, next.lost = logfile.New(a.To, l.own), &lostLines{log: l.own, path: a.To}
		log, flush := logging.NewApart(cfg, next.file, l.kept, next.lost.add)
		next.handler, next.flush = log.Handler(), flush
	}
	l.out.Store(next)
	if next.file == nil || next.file != before.file {
		l.closing.Go(before.close)
	}
}

// Reopen opens the file again, if lines go to one: whoever rotates has renamed it. It waits so long for that; a file
// system that does not answer is waited for by none but the file.
func (l *Log) Reopen(wait time.Duration) {
	file := l.out.Load().file
	if file == nil {
		return
	}
	opened, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	go func() {
		file.Reopen()
		cancel()
	}()
	<-opened.Done()
}

// Close returns when the lines are where they go, or after some seconds in which a file took none.
func (l *Log) Close() {
	l.out.Load().close()
	l.closing.Wait()
}

// close writes what is on its way. The descriptor goes with what refers to it: a connection may.
func (o *outlet) close() {
	if o.flush != nil {
		o.flush()
	}
	if o.lost != nil {
		o.lost.tell()
	}
}

// lostLines counts the lines that were dropped, and says so now and then.
type lostLines struct {
	log  *slog.Logger
	path string

	mu    sync.Mutex
	lines int
	told  time.Time
}

func (l *lostLines) add(lines int) {
	l.mu.Lock()
	l.lines += lines
	soon := time.Since(l.told) < toldEvery
	l.mu.Unlock()
	if !soon {
		l.tell()
	}
}

// tell says what has not been told yet.
func (l *lostLines) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines > 0 {
		l.log.Warn("lines of the access log were dropped: its file could not be written, or not as fast", "lines", l.lines, "path", l.path,
			"hint", "give --access-log a file system with room that is fast enough, or raise --access-log-sample")
	}
	l.lines, l.told = 0, time.Now()
}
