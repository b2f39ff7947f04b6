package logbudget

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// lines is a log that is kept, by line.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

// with are those lines that hold all of words.
func (l *lines) with(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
next:
	for line := range strings.Lines(l.String()) {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

func newLog() (*slog.Logger, *lines, *Handler) {
	var out lines
	h := New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return slog.New(h), &out, h
}

// TestWhatIsLongIsShortened: in every place where a stranger's text can stand, in both
// formats, and whatever it is made of.
func TestWhatIsLongIsShortened(t *testing.T) {
	texts := map[string]string{
		"plain": strings.Repeat("x", 65000), "control": strings.Repeat("\x00", 65000), "odd": strings.Repeat("\xff", 65000),
		"wide": strings.Repeat("漢", 20000), "hidden": strings.Repeat("\U000e0001", 16000), "quotes": strings.Repeat(`"\`, 32000),
		"separators": strings.Repeat("\u2028", 20000), "a little": strings.Repeat("\x01", Field/2),
	}
	for format, handler := range map[string]func(io.Writer) slog.Handler{
		"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		"json": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		for name, text := range texts {
			for place, say := range map[string]func(*slog.Logger){
				"value":   func(l *slog.Logger) { l.Warn("m", "k", text) },
				"error":   func(l *slog.Logger) { l.Warn("m", "k", errors.New(text)) },
				"joined":  func(l *slog.Logger) { l.Warn("m", "k", errors.Join(errors.New(text), errors.New(text))) },
				"list":    func(l *slog.Logger) { l.Warn("m", "k", []string{text, text}) },
				"key":     func(l *slog.Logger) { l.Warn("m", text, 1) },
				"message": func(l *slog.Logger) { l.Warn(text) },
				"group":   func(l *slog.Logger) { l.Warn("m", slog.Group("", slog.String("k", text))) },
				"with":    func(l *slog.Logger) { l.With("k", text).Warn("m") },
			} {
				var out lines
				say(slog.New(New(handler(&out))))
				line := out.String()
				if len(line) > Field+200 || !utf8.ValidString(line) || strings.Count(line, "\n") != 1 {
					t.Errorf("%s, %s, %s: %d bytes: %.100q", format, name, place, len(line), line)
				}
				if name != "a little" && !strings.Contains(line, "bytes)") {
					t.Errorf("%s, %s, %s: nothing says that it was cut: %.600q", format, name, place, line)
				}
				if format == "json" && !json.Valid([]byte(line)) {
					t.Errorf("%s, %s: no JSON: %.600q", name, place, line)
				}
			}
		}
	}
}

func TestALineIsBounded(t *testing.T) {
	log, out, _ := newLog()
	var attrs []any
	for i := range 100 {
		attrs = append(attrs, fmt.Sprint("k", i), strings.Repeat("x", Field))
	}
	log.Warn("m", attrs...)
	if line := out.String(); len(line) > Line+100 || !strings.Contains(line, "fields_left_out=8") || !strings.Contains(line, "k10=") {
		t.Errorf("%d bytes, ending with %q", len(line), line[max(0, len(line)-100):])
	}
}

// TestWhatIsShortIsWrittenAsItIs byte for byte, but errors, whose text is all of them.
func TestWhatIsShortIsWrittenAsItIs(t *testing.T) {
	var want, got bytes.Buffer
	plain, ours := slog.New(slog.NewJSONHandler(&want, nil)), slog.New(New(slog.NewJSONHandler(&got, nil)))
	at := time.Now()
	for _, log := range []*slog.Logger{plain, ours} {
		r := slog.NewRecord(at, slog.LevelWarn, "m", 0)
		r.AddAttrs(slog.String("s", "é\n"), slog.Any("list", []string{"a", "b"}), slog.Any("e", io.EOF), slog.Int("n", 1),
			slog.Duration("d", time.Second), slog.Group("g", slog.String("in", "x")), slog.Any("nil", nil))
		_ = log.With("w", "v").WithGroup("deep").Handler().Handle(t.Context(), r)
	}
	if got.String() != want.String() {
		t.Errorf("\n%s want\n%s", &got, &want)
	}
}

// TestOneClientsFailuresLeaveOutNobodyElses: of 10,000 failures of one client within a
// second those beyond its rate are counted, and each one of the others is written.
func TestOneClientsFailuresLeaveOutNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out, _ := newLog()
		fail := func(id, reason string) {
			log.Warn(Connection, "client", "c-"+id, "id", id, "reason", reason, "target", "t:1")
		}
		for i := range 10_000 {
			fail("noisy", "no_binding")
			if i%1000 == 0 {
				fail(fmt.Sprint("quiet", i), "no_binding")
				fail("noisy", "dial_failed") // what it says of something else is of another kind
			}
		}
		time.Sleep(toldEvery)
		synctest.Wait()
		if n := len(out.with("id=noisy", "no_binding")); n != 100 {
			t.Errorf("%d lines of the noisy client; want 100", n)
		}
		if n, m := len(out.with("id=quiet")), len(out.with("id=noisy", "dial_failed")); n != 10 || m != 10 {
			t.Errorf("%d of the others' failures, and %d of another kind; want 10 of each", n, m)
		}
		told := out.with("left out", "of=connection", "client=c-noisy", "reason=no_binding", "lines=9900")
		if len(told) != 1 {
			t.Errorf("told %q; want one line that says that 9900 were left out", out.with("left out"))
		}
		out.Reset()
		time.Sleep(time.Second) // two by now
		for range 100 {
			fail("noisy", "no_binding")
		}
		if n := len(out.with("id=noisy")); n != 20 {
			t.Errorf("%d lines two seconds later; want 20", n)
		}
	})
}

// TestEjectionsOfOneTarget: the first few are written, then how many more there were.
func TestEjectionsOfOneTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out, h := newLog()
		for i := range 1000 {
			log.Warn("ejected", "endpoint", fmt.Sprint("10.0.0.1:", i+1), "target", "many.test:1")
		}
		log.Warn("ejected", "endpoint", "10.0.0.2:1", "target", "other.test:1")
		h.Flush()
		if n := len(out.with("msg=ejected", "many.test")); n != 10 {
			t.Errorf("%d lines of the target; want 10", n)
		}
		if len(out.with("msg=ejected", "other.test")) != 1 || len(out.with("left out", "of=ejected", "target=many.test:1", "lines=990")) != 1 {
			t.Errorf("the log is\n%s", out)
		}
		// One client with many targets has a rate of its own beside.
		out.Reset()
		for i := range 1000 {
			log.Warn("ejected", "client", "c", "id", "c1", "endpoint", "10.0.0.2:1", "target", fmt.Sprint("t", i, ":1"))
		}
		if n := len(out.with("msg=ejected")); n != 100 {
			t.Errorf("%d lines of a client with many targets; want 100", n)
		}
		h.Flush()
	})
}

// TestAllLinesTogether: connections that end well have no rate; together they are written
// up to so many bytes a second, and then who has said little is heard.
func TestAllLinesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out, h := newLog()
		well := func(id string) {
			log.Info(Connection, "client", id, "id", id, "target", "t.test:1", "endpoint", "10.0.0.1:6379", "pad", strings.Repeat("x", 80))
		}
		for range 5000 { // an ordinary second
			well("busy")
		}
		if n := len(out.with("id=busy")); n != 5000 {
			t.Fatalf("%d of 5000 lines of a busy client", n)
		}
		for i := range 100_000 {
			well("greedy")
			if i%10_000 == 0 {
				log.Warn(Connection, "client", "quiet", "id", "quiet", "reason", "dial_failed", "error", "refused")
				log.Error("about ourselves")
			}
		}
		h.Flush()
		if size := out.Len(); size > 2*Bytes {
			t.Errorf("%d bytes in one second; want less than %d", size, 2*Bytes)
		}
		if n, m := len(out.with("id=quiet")), len(out.with("about ourselves")); n != 10 || m != 10 {
			t.Errorf("%d failures of a quiet client and %d lines of our own; want 10 of each", n, m)
		}
		if len(out.with("left out", "of=connection", "client=greedy")) != 1 {
			t.Errorf("told %q", out.with("left out"))
		}
		out.Reset()
		time.Sleep(time.Second)
		well("greedy")
		if len(out.with("id=greedy")) != 1 {
			t.Error("nothing of it in the next second")
		}
	})
}

// TestWhatIsToldIsBounded: 300 clients at once have fifty lines, the last of which
// stands for the rest, and nothing is lost from the count.
func TestWhatIsToldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out, h := newLog()
		for i := range 300 {
			for range 101 {
				log.Warn("m", "client", "c", "id", fmt.Sprint("id", i))
			}
		}
		h.Flush()
		if told := out.with("left out"); len(told) != mostTold || len(out.with("left out", "kinds=251", "lines=251")) != 1 {
			t.Errorf("%d lines tell of it, the last %q", len(told), told[len(told)-1])
		}
		out.Reset()
		time.Sleep(2 * toldEvery)
		synctest.Wait()
		if out.Len() != 0 {
			t.Errorf("it is told again: %s", out)
		}
	})
}

// TestTheCountersAreBounded: of addresses there are as many as anybody likes. A container
// is counted apart all the same.
func TestTheCountersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out, h := newLog()
		for i := range 50_000 {
			log.Warn(Connection, "client", "", "source", fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&255, i&255), "reason", "dial_failed")
		}
		for i := range 1000 { // of one network
			log.Warn(Connection, "client", "", "source", fmt.Sprintf("[2001:db8::%x]:80", i), "reason", "no_endpoints")
		}
		if n := len(h.budget.kinds); n > mostKinds+10 {
			t.Errorf("%d counters; want %d at most", n, mostKinds)
		}
		out.Reset()
		log.Warn(Connection, "client", "c", "id", "c1", "reason", "dial_failed")
		if len(out.with("id=c1")) != 1 {
			t.Error("a container's failure is left out for those of addresses")
		}
		h.Flush()
		time.Sleep(time.Minute)
		log.Warn(Connection, "client", "", "source", "10.9.9.9:80", "reason", "dial_failed")
		log.Warn(Connection, "client", "", "source", "10.9.9.8:80", "reason", "dial_failed")
		if n := len(h.budget.kinds); n > 3 {
			t.Errorf("%d counters after a minute; want those of the last", n)
		}
	})
}

// TestOneClientsTargetsTakeFewCounters: for whoever has thousands of targets fail, no
// address has to share a rate with others.
func TestOneClientsTargetsTakeFewCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out, h := newLog()
		for i := range 20_000 {
			log.Warn("ejected", "target", fmt.Sprintf("10.0.%d.%d:80", i>>8, i&255), "reported_by", "hostile", "reporter_id", "abc")
		}
		if n := len(h.budget.kinds); n > 150 {
			t.Errorf("%d counters for one client", n)
		}
		if n := len(out.with("ejected")); n > 101 {
			t.Errorf("%d lines of what one client had ejected; want as many as of any kind", n)
		}
		out.Reset()
		for i := range 200 {
			log.Warn(Connection, "client", "", "source", fmt.Sprintf("10.9.0.%d:80", i), "reason", "dial_failed")
		}
		if n := len(out.with("dial_failed")); n != 200 {
			t.Errorf("%d lines of 200 addresses", n)
		}
		h.Flush()
	})
}

func TestAddressesOfOneNetworkAreOneClient(t *testing.T) {
	log, out, h := newLog()
	for i := range 200 {
		log.Warn(Connection, "source", fmt.Sprintf("[2001:db8::%x]:80", i), "reason", "no_endpoints")
	}
	if n := len(out.with("no_endpoints")); n != 100 {
		t.Errorf("%d lines; want 100", n)
	}
	h.Flush()
}

// quick writes nothing.
type quick struct{ slog.Handler }

func (quick) Enabled(context.Context, slog.Level) bool  { return true }
func (quick) Handle(context.Context, slog.Record) error { return nil }

func BenchmarkConnection(b *testing.B) {
	group := []slog.Attr{
		slog.String("client", "web-1"), slog.String("id", "0123456789ab"), slog.String("service", "web"), slog.Int("port", 6379),
		slog.String("target", "redis.service.consul"), slog.String("endpoint", "10.0.0.1:6379"), slog.String("endpoint_name", "redis-1"),
		slog.Int64("bytes_up", 1), slog.Int64("bytes_down", 1), slog.String("duration", "1ms"),
	}
	whole := []slog.Attr{{Value: slog.GroupValue(group...)}}
	for name, h := range map[string]slog.Handler{
		"plain": slog.NewTextHandler(io.Discard, nil), "budget": New(slog.NewTextHandler(io.Discard, nil)), "budget alone": New(quick{}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			at := time.Now()
			for b.Loop() {
				at = at.Add(time.Millisecond) // within the budget
				r := slog.NewRecord(at, slog.LevelInfo, Connection, 0)
				r.AddAttrs(whole...)
				_ = h.Handle(b.Context(), r)
			}
		})
	}
}
