package consul

import (
	"context"
	"strings"
	"testing"
)

// A panic over an answer is a failure, in whichever goroutine it is read.
func TestPanicWhileWaiting(t *testing.T) {
	v := &visit{spec: &watchSpec{what: "key k"}, liveness: &livenessCursor{}}
	gaveUp, err := v.attend(t.Context(), func(context.Context) error { panic("hostile") })
	if gaveUp || err == nil || !strings.Contains(err.Error(), "asking for key k panicked: hostile") {
		t.Errorf("%v, %v", gaveUp, err)
	}
}
