package attach

import (
	"testing"
	"time"
)

// A container whose rules change all the time gets a tenth of our time for that, and one that is
// quick to look at is looked at after a second.
func TestRest(t *testing.T) {
	for _, test := range []struct{ took, want time.Duration }{
		{0, time.Second},
		{20 * time.Millisecond, time.Second},
		{500 * time.Millisecond, 5 * time.Second},
		{time.Hour, time.Minute},
	} {
		if got := rest(test.took); got != test.want {
			t.Errorf("after %s: %s, want %s", test.took, got, test.want)
		}
	}
}
