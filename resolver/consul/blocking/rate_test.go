package blocking

import (
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	now := time.Unix(1000, 0)
	const interval = 100 * time.Millisecond
	r := NewRate(interval, now)
	for i := range Burst {
		if d := r.Delay(now); d != 0 {
			t.Errorf("request %d waits %v", i, d)
		}
	}
	for range 50 {
		d := r.Delay(now)
		if d != interval {
			t.Fatalf("a request after the burst waits %v, want %v", d, interval)
		}
		now = now.Add(d)
	}
	now = now.Add(time.Hour)
	for i := range Burst {
		if d := r.Delay(now); d != 0 {
			t.Errorf("request %d after a pause waits %v", i, d)
		}
	}
	if d := r.Delay(now); d == 0 {
		t.Error("an hour's pause saved up more than a burst")
	}
}
