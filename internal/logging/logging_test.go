package logging

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
)

// TestTheDaemonsLogLosesNothingAtItsEnd: what was logged before flush is there after it,
// in order, and so is what comes later.
func TestTheDaemonsLogLosesNothingAtItsEnd(t *testing.T) {
	var out bytes.Buffer
	cfg := config.Default()
	log, change, flush := NewBuffered(cfg, &out, nil)
	for i := range 100 {
		log.Info("line", "n", i)
	}
	cfg.LogFormat = "json"
	change(cfg)
	log.Info("changed")
	flush()
	log.Info("later")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 102 {
		t.Fatalf("%d lines; want 102:\n%s", len(lines), &out)
	}
	for i, line := range lines[:100] {
		if !strings.HasSuffix(line, fmt.Sprintf("msg=line n=%d", i)) {
			t.Errorf("line %d: %s", i, line)
		}
	}
	if !strings.Contains(lines[100], `"msg":"changed"`) || !strings.Contains(lines[101], `"msg":"later"`) {
		t.Errorf("at the end: %q", lines[100:])
	}
}

// slow takes the first lines only when it is told to go on.
type slow struct {
	bytes.Buffer
	begun, goOn chan struct{}
	once        sync.Once
}

func (s *slow) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.begun); <-s.goOn })
	return s.Buffer.Write(p)
}

func TestASlowReaderOfTheLogIsToldWhatItMissed(t *testing.T) {
	out := &slow{begun: make(chan struct{}), goOn: make(chan struct{})}
	log, _, flush := NewBuffered(config.Default(), out, nil)
	log.Info("first")
	<-out.begun
	text := strings.Repeat("x", 400) // and a line more than that
	const lines = 2 * mostBuffered / 400
	for i := range lines {
		log.Info("connection", "client", fmt.Sprint("c", i), "pad", text) // nothing waits for the reader
	}
	close(out.goOn)
	flush()
	log.Info("last")
	told := regexp.MustCompile(`lines were dropped: [^"]*" lines=(\d+)`).FindStringSubmatch(out.String())
	if told == nil {
		t.Fatalf("nothing says that lines were dropped: %.300s", out.String())
	}
	dropped, _ := strconv.Atoi(told[1])
	if n := strings.Count(out.String(), text); dropped == 0 || n+dropped != lines {
		t.Errorf("%d of %d lines arrived, and %d are said to have been dropped", n, lines, dropped)
	}
}

// TestNobodyFillsTheDaemonsLog: 5,000 connections fail for a label of 65,000 bytes that
// makes no sense, and somebody else's one is told of.
func TestNobodyFillsTheDaemonsLog(t *testing.T) {
	var out bytes.Buffer
	log, _, flush := NewBuffered(config.Default(), &out, nil)
	text := strings.Repeat("x", 65000)
	for range 5000 {
		log.Warn("connection", "client", "hostile", "id", "0", "port", 6379, "target", text, "reason", "no_binding",
			"error", fmt.Errorf("label connect.6379=%s: no port", text), "hint", "write HOST:PORT, not "+text)
	}
	log.Warn("connection", "client", "honest", "id", "1", "reason", "dial_failed", "error", io.EOF)
	flush()
	written, left := strings.Count(out.String(), "msg=connection client=hostile"), 0
	for _, told := range regexp.MustCompile(`client=hostile lines=(\d+)`).FindAllStringSubmatch(out.String(), -1) {
		n, _ := strconv.Atoi(told[1])
		left += n
	}
	if out.Len() > 1<<20 || !strings.Contains(out.String(), "client=honest") || written+left != 5000 {
		t.Errorf("%d bytes; %d lines, and %d are said to have been left out; the log ends with\n%s",
			out.Len(), written, left, out.String()[max(0, out.Len()-500):])
	}
}

// TestLiveLogger: a change holds for loggers that were made before it.
func TestLiveLogger(t *testing.T) {
	var out strings.Builder
	cfg := config.Default()
	live, set := newLiveHandler(cfg, &out)
	derived := slog.New(live).With("a", 1).WithGroup("g").With("b", 2)
	derived.Debug("one")
	cfg.LogLevel, cfg.LogFormat = slog.LevelDebug, "json"
	set(cfg)
	derived.Debug("two", "c", 3)
	text := out.String()
	if strings.Contains(text, "one") || !strings.Contains(text, `"level":"DEBUG","msg":"two","a":1,"g":{"b":2,"c":3}}`) {
		t.Errorf("logged %q; want the second line alone, as JSON, with all attributes", text)
	}
}
