package budget

import (
	"strings"
	"testing"
)

func TestBudget(t *testing.T) {
	for descriptors, least := range map[uint64]int{64: 1, 1024: 440, 20_000: 9_000, 1 << 20: 480_000, 1 << 62: 7_000_000} {
		b := Of(descriptors)
		if b.Open < least || b.Queue < 1 {
			t.Errorf("%d descriptors: %+v; want at least %d connections", descriptors, b, least)
		}
		if descriptors > 1000 && uint64(2*b.Open+b.Queue) > descriptors-64 {
			t.Errorf("%d descriptors: %+v is more than there are", descriptors, b)
		}
	}
	b := Budget{Open: 100, Queue: 10}
	if got, err := b.Within(30); err != nil || got.Open != 30 {
		t.Errorf("fewer: %+v, %v", got, err)
	}
	if got, err := b.Within(0); err != nil || got != b {
		t.Errorf("none asked for: %+v, %v", got, err)
	}
	if got, err := b.Within(101); err == nil || got != b || !strings.Contains(err.Error(), "good for, which is 100") {
		t.Errorf("more: %+v, %v; want what there is, and why", got, err)
	}
}
