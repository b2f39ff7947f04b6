package proxy

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRate(t *testing.T) {
	var p eventRate
	var now time.Duration
	come := func(n int, apart, during time.Duration) {
		for end := now + during; now < end; {
			now += apart
			p.note(n, int64(now))
		}
	}
	for _, c := range []struct {
		name          string
		n             int
		apart, during time.Duration
		high          bool
	}{
		{"one each 10 µs", 1, 10 * time.Microsecond, 3 * time.Millisecond, true},
		{"one each 100 µs", 1, 100 * time.Microsecond, 5 * time.Millisecond, false},
		{"ten each 100 µs", 10, 100 * time.Microsecond, 5 * time.Millisecond, true},
		{"some after a second of nothing", 64, time.Second, time.Second, false},
	} {
		if come(c.n, c.apart, c.during); p.high != c.high {
			t.Errorf("%s: quick is %t; want %t", c.name, p.high, c.high)
		}
	}
}

// TestGlance: a loop that looks before it sleeps finds what is there, and is woken by what
// comes later.
func TestGlance(t *testing.T) {
	l, err := newLoop(&Server{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	var events [1]unix.EpollEvent
	happens := func() {
		t.Helper()
		n := 0
		for n == 0 { // a signal may end a wait
			l.busy, l.rate.high = true, true
			n = l.poll(events[:])
		}
		if events[0].Fd != wakeSlot {
			t.Fatalf("an event of %d; want %d", events[0].Fd, wakeSlot)
		}
		l.takePosted()
	}
	l.post(func() {})
	happens()
	time.AfterFunc(100*spinFor, func() { l.post(func() {}) })
	happens()
}
