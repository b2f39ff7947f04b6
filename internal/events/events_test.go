package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/status"
)

// newLog returns a Log, a logger whose lines it keeps, and what that has written.
func newLog(level slog.Level) (*Log, *slog.Logger, *bytes.Buffer) {
	l, out := new(Log), new(bytes.Buffer)
	return l, slog.New(l.Handler(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}), "connection")), out
}

func TestEventsAreWhatIsLogged(t *testing.T) {
	l, log, out := newLog(slog.LevelInfo)
	log.Debug("too low")
	log.Info("connection", "client", "web")
	log.Warn("connection", "client", "web", "reason", "dial_failed")
	log.With("target", "db:5432").WithGroup("g").With("a", 1).Error("failed", "error", errors.New("no way"), "for", 3*time.Second)
	log.Info("read", "from", "postgres://app:secret@db", "error", fmt.Errorf("dial %s", "redis://u:hidden@r"))
	events, lost := l.After(0)
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s %s %s", e.Level, e.Message, e.Fields))
	}
	want := []string{
		`warn connection {"client":"web","reason":"dial_failed"}`,
		`error failed {"target":"db:5432","g":{"a":1,"error":"no way","for":3000000000}}`,
		`info read {"from":"postgres://…@db","error":"dial redis://…@r"}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || lost {
		t.Errorf("the events are (lost: %t)\n%s\nwant\n%s", lost, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if lines := strings.Count(out.String(), "\n"); lines != 4 || strings.Contains(out.String(), "too low") {
		t.Errorf("%d lines were logged; want all 4\n%s", lines, out)
	}
}

func TestIDsGoUpAlthoughTheClockDoesNot(t *testing.T) {
	var l Log
	now := time.Unix(1000, 0)
	for _, at := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Second), {}} {
		l.add(status.Event{Time: at})
	}
	events, _ := l.After(0)
	for i, want := range []uint64{1e9, 1e9 + 1, 1e9 + 2, 1e9 + 1e6, 1e9 + 1e6 + 1} {
		if events[i].ID != want {
			t.Errorf("event %d has ID %d; want %d", i, events[i].ID, want)
		}
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	var l Log
	for i := range 3 * mostEvents {
		l.add(status.Event{Time: time.UnixMicro(int64(i + 1)), Fields: json.RawMessage("{}")})
	}
	events, lost := l.After(0)
	if len(events) != mostEvents || !lost || events[0].ID != 2*mostEvents+1 {
		t.Errorf("%d events are kept, from %d (lost: %t); want the last %d", len(events), events[0].ID, lost, mostEvents)
	}
	if _, lost := l.After(2 * mostEvents); lost {
		t.Error("an event is said to be missing for one who has all that are not kept")
	}
	if _, lost := l.After(2*mostEvents - 1); !lost {
		t.Error("no event is said to be missing for one who lacks one")
	}
	large := json.RawMessage(`{"a":"` + strings.Repeat("x", mostBytes/10) + `"}`)
	for range 30 {
		l.add(status.Event{Time: time.Unix(1, 0), Fields: large})
	}
	events, _ = l.After(0)
	if total := len(events) * len(large); len(events) < 9 || total > mostBytes {
		t.Errorf("%d large events are kept, %d bytes; want at most %d", len(events), total, mostBytes)
	}
	l.add(status.Event{Fields: json.RawMessage(`"` + strings.Repeat("x", 2*mostBytes) + `"`)})
	if events, _ = l.After(0); len(events) != 1 {
		t.Errorf("%d events are kept beside one that is too large; want that one", len(events))
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Log
		l.add(status.Event{Message: "before"})
		before, _ := l.After(0)
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan []status.Event, 2)
		var running sync.WaitGroup
		for range 2 { // both are told
			running.Go(func() { events, _ := l.Wait(ctx, before[0].ID); told <- events })
		}
		synctest.Wait()
		if len(told) > 0 {
			t.Fatal("an event was told of that has not happened")
		}
		l.add(status.Event{Message: "now"})
		got := append(<-told, <-told...)
		if len(got) != 2 || got[0].Message != "now" {
			t.Errorf("told of %+v; want what has just happened, twice", got)
		}
		running.Go(func() {
			if events, lost := l.Wait(ctx, got[0].ID); len(events) > 0 || lost {
				t.Errorf("told of %+v (lost: %t) after the end", events, lost)
			}
		})
		synctest.Wait()
		cancel()
		running.Wait()
	})
}

// TestEventsFromManyGoroutines is for the race detector.
func TestEventsFromManyGoroutines(t *testing.T) {
	l, log, _ := newLog(slog.LevelWarn)
	var running sync.WaitGroup
	for i := range 4 {
		running.Go(func() {
			for j := range 200 {
				log.Warn("m", "i", i, "j", j)
				l.After(0)
			}
		})
	}
	running.Wait()
	events, _ := l.After(0)
	if len(events) != 800 {
		t.Errorf("%d events; want 800", len(events))
	}
	for i, e := range events {
		if !json.Valid(e.Fields) || i > 0 && e.ID <= events[i-1].ID {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
}
