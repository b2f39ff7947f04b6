package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/settings"
)

// every is settings with that repair interval.
func every(interval time.Duration) *settings.Settings {
	cfg := config.Default()
	cfg.RepairInterval = interval
	return settings.New(cfg, nil, nil)
}

// work notes when it is done, and whether in full.
type work struct {
	began time.Time
	full  []time.Duration
	part  []time.Duration
	err   atomic.Pointer[error]
}

func (w *work) do(full bool) error {
	at := time.Since(w.began)
	if full {
		w.full = append(w.full, at)
	} else {
		w.part = append(w.part, at)
	}
	if err := w.err.Load(); err != nil {
		return *err
	}
	return nil
}

// looping runs a loop in a bubble while play lasts.
func looping(t *testing.T, o Options, w *work, play func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	w.began = time.Now()
	go func() { defer close(done); Loop(ctx, o, w.do) }()
	synctest.Wait()
	play()
	cancel()
	<-done
}

func TestLoopWorksAtOnceAndAtTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		current := settings.NewCurrent(every(10 * time.Second))
		var w work
		looping(t, Options{Settings: current}, &w, func() {
			time.Sleep(25 * time.Second)
			current.Replace(every(time.Minute)) // is looked at at once
			time.Sleep(65 * time.Second)
		})
		if want := []time.Duration{0, 10 * time.Second, 20 * time.Second, 25 * time.Second, 85 * time.Second}; !slices.Equal(w.full, want) || w.part != nil {
			t.Errorf("worked at %v, partly %v; want %v", w.full, w.part, want)
		}
		var later work
		looping(t, Options{Settings: settings.NewCurrent(every(time.Minute)), Later: true}, &later, func() { time.Sleep(61 * time.Second) })
		if want := []time.Duration{time.Minute}; !slices.Equal(later.full, want) {
			t.Errorf("worked at %v; want %v", later.full, want)
		}
	})
}

// TestLoopAfterChanges: many at a time are one reason to look, which does not put off the next
// full look; and what was looked at lately is let be for a while.
func TestLoopAfterChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed, also := make(chan struct{}, 1), make(chan struct{}, 1)
		o := Options{
			Settings: settings.NewCurrent(every(10 * time.Second)),
			Changed:  func() <-chan struct{} { return changed }, Also: also,
		}
		var w work
		looping(t, o, &w, func() {
			time.Sleep(time.Second)
			changed <- struct{}{}
			also <- struct{}{}
			time.Sleep(4 * time.Second)
			also <- struct{}{}
			time.Sleep(6 * time.Second)
		})
		if want := []time.Duration{0, 10 * time.Second}; !slices.Equal(w.full, want) {
			t.Errorf("worked in full at %v; want %v", w.full, want)
		}
		// The second token of the first pair is looked at next.
		if want := []time.Duration{time.Second + Settling, time.Second + 2*Settling, 5*time.Second + Settling}; !slices.Equal(w.part, want) {
			t.Errorf("worked at %v; want %v", w.part, want)
		}
		o.Also, o.Rest = nil, func() time.Duration { return 3 * time.Second }
		var rested work
		looping(t, o, &rested, func() {
			time.Sleep(time.Second)
			changed <- struct{}{}
			time.Sleep(5 * time.Second)
		})
		if want := []time.Duration{3 * time.Second}; !slices.Equal(rested.part, want) {
			t.Errorf("worked at %v; want %v after the last work", rested.part, want)
		}
	})
}

func TestLoopAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w work
		no := errors.New("no")
		w.err.Store(&no)
		kicked := make(chan struct{}, 1)
		o := Options{Settings: settings.NewCurrent(every(time.Hour)), Retry: true, Kicked: kicked}
		looping(t, o, &w, func() {
			time.Sleep(400 * time.Millisecond)
			w.err.Store(nil)
			time.Sleep(time.Minute)
			kicked <- struct{}{}
			time.Sleep(time.Second)
		})
		ms := time.Millisecond
		if want := []time.Duration{0, 50 * ms, 150 * ms, 350 * ms, 750 * ms, 400*ms + time.Minute}; !slices.Equal(w.full, want) {
			t.Errorf("worked at %v; want %v", w.full, want)
		}
	})
}

// TestLoopLetsBeWhatIsUntouched, at the interval alone.
func TestLoopLetsBeWhatIsUntouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var touched atomic.Bool
		var w work
		o := Options{Settings: settings.NewCurrent(every(10 * time.Second)), Untouched: func() bool { return !touched.Load() }}
		looping(t, o, &w, func() {
			time.Sleep(35 * time.Second)
			touched.Store(true)
			time.Sleep(10 * time.Second)
		})
		if want := []time.Duration{0, 40 * time.Second}; !slices.Equal(w.full, want) {
			t.Errorf("worked at %v; want %v", w.full, want)
		}
	})
}
