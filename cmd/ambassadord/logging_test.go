package main

import (
	"bytes"
	"fmt"
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
	log, retune, flush := newDaemonLogger(cfg, &out)
	for i := range 100 {
		log.Info("line", "n", i)
	}
	cfg.LogFormat = "json"
	retune(cfg)
	log.Info("retuned")
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
	if !strings.Contains(lines[100], `"msg":"retuned"`) || !strings.Contains(lines[101], `"msg":"later"`) {
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
	log, _, flush := newDaemonLogger(config.Default(), out)
	log.Info("first")
	<-out.begun
	long := strings.Repeat("x", logRoom/4)
	for range 10 {
		log.Info(long) // nothing waits for the reader
	}
	close(out.goOn)
	flush()
	text := out.String()
	if n := strings.Count(text, long); n != 3 || !strings.Contains(text, "too slow\" lines=7") {
		t.Errorf("%d of 10 lines arrived; want 3, and that 7 were dropped: %.200s", n, text[strings.LastIndex(text, "time="):])
	}
}
