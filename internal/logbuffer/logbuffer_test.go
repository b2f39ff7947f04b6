package logbuffer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reader is a log that may stop taking lines.
type reader struct {
	mu     sync.Mutex
	writes []string
	shut   chan struct{} // what is written waits until it is closed; nil lets all through
	gone   bool          // what is written fails
}

func (r *reader) Write(p []byte) (int, error) {
	if r.shut != nil {
		<-r.shut
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return 0, errors.New("broken pipe")
	}
	r.writes = append(r.writes, string(p))
	return len(p), nil
}

// written is what was written so far.
func (r *reader) written() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.writes)
}

func (r *reader) lines() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.writes, "")
}

// buffered runs test in a bubble with a Writer to r that says what it dropped in its own
// log, as a logger does.
func buffered(t *testing.T, r *reader, size int, test func(t *testing.T, w *Writer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if r.shut != nil {
			r.shut = make(chan struct{}) // of the bubble
		}
		var w *Writer
		w = New(r, size, func(lines int) { fmt.Fprintf(w, "%d dropped\n", lines) })
		go w.Run()
		test(t, w)
	})
}

func say(t *testing.T, w *Writer, line string) {
	t.Helper()
	if n, err := w.Write([]byte(line + "\n")); n != len(line)+1 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
}

func TestLinesAreWrittenTogetherAndSoon(t *testing.T) {
	r := &reader{}
	buffered(t, r, 1000, func(t *testing.T, w *Writer) {
		defer w.Close()
		for round := range 3 {
			say(t, w, "one")
			time.Sleep(delay / 2)
			say(t, w, "two")
			synctest.Wait()
			if len(r.written()) != round {
				t.Fatalf("%d writes before the delay is over; want %d", len(r.written()), round)
			}
			time.Sleep(delay / 2)
			synctest.Wait()
			if len(r.written()) != round+1 || r.written()[round] != "one\ntwo\n" {
				t.Fatalf("writes %q; want both lines at once", r.written())
			}
			time.Sleep(time.Hour)
		}
		say(t, w, strings.Repeat("x", 600))
		synctest.Wait()
		if len(r.written()) != 4 {
			t.Error("a buffer that is half full waits")
		}
	})
}

func TestAtTheEndNothingIsLost(t *testing.T) {
	r := &reader{}
	buffered(t, r, 1000, func(t *testing.T, w *Writer) {
		say(t, w, "before")
		w.Close()
		if got := r.lines(); got != "before\n" {
			t.Errorf("after Close: %q", got)
		}
		say(t, w, "after")
		if got := r.lines(); got != "before\nafter\n" {
			t.Errorf("after a last word: %q", got)
		}
	})
}

func TestWhatHasNoRoomIsDroppedAndCounted(t *testing.T) {
	r := &reader{shut: make(chan struct{})}
	buffered(t, r, 100, func(t *testing.T, w *Writer) {
		say(t, w, "first")
		time.Sleep(2 * delay)
		synctest.Wait() // it is being written, in vain
		for i := range 20 {
			say(t, w, fmt.Sprintf("line %04d", i)) // 10 bytes each
		}
		close(r.shut)
		time.Sleep(2 * delay)
		say(t, w, "last")
		w.Close()
		var want bytes.Buffer
		want.WriteString("first\n")
		for i := range 10 {
			fmt.Fprintf(&want, "line %04d\n", i)
		}
		got := r.lines()
		if !strings.HasPrefix(got, want.String()) || !strings.Contains(got, "10 dropped\n") || !strings.HasSuffix(got, "last\n") {
			t.Errorf("%s\nwant what had room, that 10 were dropped, and the last", got)
		}
	})
}

func TestAReaderThatTakesNothingIsNotWaitedForForEver(t *testing.T) {
	r := &reader{shut: make(chan struct{})}
	buffered(t, r, 1000, func(t *testing.T, w *Writer) {
		say(t, w, "one")
		start := time.Now()
		w.Close()
		if waited := time.Since(start); waited != patience {
			t.Errorf("Close took %s; want %s", waited, patience)
		}
		say(t, w, "two") // returns
		close(r.shut)
		<-w.ended
	})
}

func TestManyWritersKeepTheirOrder(t *testing.T) {
	r := &reader{}
	w := New(r, 1<<20, func(int) { t.Error("a line was dropped") })
	go w.Run()
	var writers sync.WaitGroup
	for who := range 4 {
		writers.Go(func() {
			for i := range 1000 {
				fmt.Fprintf(w, "%d %d\n", who, i)
			}
		})
	}
	time.AfterFunc(delay, w.Close)
	writers.Wait()
	<-w.ended
	next := [4]int{}
	for line := range strings.Lines(r.lines()) {
		var who, i int
		if _, err := fmt.Sscanf(line, "%d %d", &who, &i); err != nil || i != next[who] {
			t.Fatalf("%q, %v; want %d of %d", line, err, next[who], who)
		}
		next[who]++
	}
	if next != [4]int{1000, 1000, 1000, 1000} {
		t.Errorf("lines %v; want all", next)
	}
}

func BenchmarkWrite(b *testing.B) {
	w := New(new(reader), 1<<20, func(int) {})
	line := bytes.Repeat([]byte("x"), 200)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = w.Write(line)
		w.pending = w.pending[:len(w.pending)%(1<<19)]
	}
}

// TestReaderThatIsAway has every write fail for a while: lines are lost, and counted when
// somebody reads again; the Writer ends although nobody does.
func TestReaderThatIsAway(t *testing.T) {
	r := &reader{}
	buffered(t, r, 1000, func(t *testing.T, w *Writer) {
		away := func(gone bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.gone = gone
		}
		away(true)
		for range 3 {
			say(t, w, "lost")
			time.Sleep(2 * delay)
		}
		away(false)
		say(t, w, "read")
		time.Sleep(4 * delay)
		if got := r.lines(); got != "read\n3 dropped\n" {
			t.Errorf("the log is %q", got)
		}
		away(true)
		say(t, w, "lost")
		w.Close()
	})
}
