package attach

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/config"
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

// TestReadyWaitsForNoWatch: the daemon has waited for the watch (mode.Early) before it asks whether
// the mode is ready to take over, so a preparer that hangs costs a takeover watchPatience once.
func TestReadyWaitsForNoWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMode(&Config{Name: config.Redirect})
		began := time.Now()
		m.AwaitWatch(t.Context())
		if err := m.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != watchPatience {
			t.Errorf("a watch that does not begin was awaited for %s; want %s", took, watchPatience)
		}
	})
}
