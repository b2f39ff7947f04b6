package backoff

import (
	"context"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func next(b *Backoff, n int) (pauses []time.Duration) {
	for range n {
		pauses = append(pauses, b.Next())
	}
	return pauses
}

func TestPausesDoubleUpToMax(t *testing.T) {
	b := Backoff{Base: 100 * time.Millisecond, Max: 500 * time.Millisecond}
	want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 500 * time.Millisecond, 500 * time.Millisecond}
	for range 2 {
		if got := next(&b, len(want)); !slices.Equal(got, want) {
			t.Errorf("pauses of %v, want %v", got, want)
		}
		b.Reset()
	}
	b.Max = 150 * time.Millisecond // which may change, as what is known of others does
	if got := next(&b, 2); !slices.Equal(got, []time.Duration{b.Base, b.Max}) {
		t.Errorf("with another bound %v", got)
	}
}

func TestBounds(t *testing.T) {
	if got := next(&Backoff{Base: time.Hour, Max: time.Second}, 2); !slices.Equal(got, []time.Duration{time.Hour, time.Hour}) {
		t.Errorf("with a bound of less than the first pause: %v", got)
	}
	b := Backoff{Base: math.MaxInt64/2 + 1, Max: math.MaxInt64, Jitter: 1}
	for _, pause := range next(&b, 3) {
		if pause < 0 {
			t.Errorf("a pause of %v", pause)
		}
	}
}

func TestJitter(t *testing.T) {
	least, most := time.Duration(math.MaxInt64), time.Duration(0)
	for range 2000 {
		b := Backoff{Base: time.Second, Max: time.Second, Jitter: 0.25}
		pause := b.Next()
		least, most = min(least, pause), max(most, pause)
	}
	if least < 750*time.Millisecond || least > 760*time.Millisecond || most > time.Second || most < 990*time.Millisecond {
		t.Errorf("from %v to %v, want 750 ms to 1 s", least, most)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, began := Backoff{Base: time.Second, Max: 2 * time.Second}, time.Now()
		for _, want := range []time.Duration{time.Second, 3 * time.Second, 5 * time.Second} {
			if !b.Wait(t.Context()) || time.Since(began) != want {
				t.Errorf("%v have passed, want %v", time.Since(began), want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if b.Wait(ctx) || time.Since(began) != 6*time.Second {
			t.Errorf("it went on after its context had ended, or was not ended by it: %v", time.Since(began))
		}
	})
}

func TestPausesAllocateNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		b := Backoff{Base: time.Second, Max: time.Minute, Jitter: 0.5}
		b.Next()
		b.Reset()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
