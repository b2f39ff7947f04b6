package attach

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAttachingWaits: attaching waits until the daemon is ready, but not for long.
func TestAttachingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready, ending := make(chan struct{}), make(chan struct{})
		c := &Config{Ready: ready}
		began := time.Now()
		c.awaitReady(ending)
		if took := time.Since(began); took != attachPatience {
			t.Errorf("it waited %s for a daemon that is not ready; want %s", took, attachPatience)
		}
		close(ending)
		c.awaitReady(ending)
		close(ready)
		c.awaitReady(nil)
		if took := time.Since(began); took != attachPatience {
			t.Errorf("it waited %s more for one that is to end, and for a daemon that is ready", took-attachPatience)
		}
	})
}
