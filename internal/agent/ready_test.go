package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestReady: the daemon is ready, once, when it follows the containers that are there, or
// when the engine has not told of them in time.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, follows := range map[string]bool{"the engine tells": true, "the engine is away": false} {
			a := &agent{followed: make(chan struct{}), readied: make(chan struct{}), handing: make(chan *successor)}
			ctx, cancel := context.WithCancel(t.Context())
			var times atomic.Int32
			ended := make(chan *successor)
			go func() { ended <- a.serveOn(ctx, func() { times.Add(1) }) }()
			time.Sleep(readyPatience - time.Millisecond)
			synctest.Wait()
			if times.Load() != 0 {
				t.Errorf("%s: ready before anybody was followed", name)
			}
			if follows {
				close(a.followed)
			} else {
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
			if times.Load() != 1 {
				t.Errorf("%s: ready %d times; want once", name, times.Load())
			}
			time.Sleep(time.Hour)
			if !follows {
				close(a.followed)
			}
			synctest.Wait()
			if times.Load() != 1 {
				t.Errorf("%s: ready %d times after an hour; want once", name, times.Load())
			}
			cancel()
			if d := <-ended; d != nil {
				t.Errorf("%s: ended for a new daemon; want for its context", name)
			}
		}
	})
}

// TestNotReady: who stops or hands over before is never ready.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{followed: make(chan struct{}), readied: make(chan struct{}), handing: make(chan *successor)}
		never := func() { t.Error("ready") }
		ended := make(chan *successor)
		go func() { ended <- a.serveOn(t.Context(), never) }()
		d := &successor{}
		a.handing <- d
		if got := <-ended; got != d {
			t.Errorf("hands over to %v; want %v", got, d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- a.serveOn(ctx, never) }()
		synctest.Wait()
		cancel()
		if got := <-ended; got != nil {
			t.Errorf("hands over to %v; want that it stops", got)
		}
	})
}

// TestAttachingWaits: attaching waits until the daemon is ready, but not for long.
func TestAttachingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, ending := &agent{readied: make(chan struct{})}, make(chan struct{})
		began := time.Now()
		a.awaitReady(ending)
		if took := time.Since(began); took != attachPatience {
			t.Errorf("it waited %s for a daemon that is not ready; want %s", took, attachPatience)
		}
		close(ending)
		a.awaitReady(ending)
		close(a.readied)
		a.awaitReady(nil)
		if took := time.Since(began); took != attachPatience {
			t.Errorf("it waited %s more for one that is to end, and for a daemon that is ready", took-attachPatience)
		}
	})
}
