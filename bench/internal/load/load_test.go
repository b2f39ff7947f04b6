package load

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond, 0.999: time.Millisecond} {
		got := h.quantile(q)
		if got > want+want/50 || got < want-want/50 {
			t.Errorf("quantile %v is %s, want about %s", q, got, want)
		}
	}
	if got := new(histogram).quantile(0.5); got != 0 {
		t.Errorf("of nothing: %s", got)
	}
}

// A bucket begins where it says, and ends where the next begins.
func TestBucketsAreInOrder(t *testing.T) {
	for b := range fine*40 - 1 {
		low := lowest(b)
		if bucket(uint64(low)) != b {
			t.Fatalf("bucket %d begins at %d, which is in bucket %d", b, low, bucket(uint64(low)))
		}
		if next := lowest(b + 1); bucket(uint64(next)-1) != b {
			t.Fatalf("bucket %d ends before %d", b, next)
		}
	}
}

func TestSourcesTakeTurns(t *testing.T) {
	if a, b := source(0), source(perSource-1); a != b {
		t.Errorf("%s and %s within one turn", a, b)
	}
	if a, b := source(0), source(perSource); a == b {
		t.Errorf("%s twice", a)
	}
	if last := source(perSource*200*200 - 1).String(); last != "127.1.199.200" {
		t.Errorf("the last is %s", last)
	}
}
