package blocking

import (
	"testing"
)

func TestNextIndex(t *testing.T) {
	for _, c := range []struct{ waited, got, want uint64 }{
		{0, 10, 10}, {10, 11, 11}, {10, 10, 10},
		{11, 10, 0}, // backwards
		{0, 0, 1},   // never wait on 0
		{5, 0, 0},
	} {
		if got := NextIndex(c.waited, c.got); got != c.want {
			t.Errorf("NextIndex(%d, %d) = %d, want %d", c.waited, c.got, got, c.want)
		}
	}
}
