package daemon

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// waiting is a daemon without modes that follows nobody yet.
func waiting() *daemon {
	return &daemon{giver: newGiver(), readied: make(chan struct{}), follower: &follower{followed: make(chan struct{})}}
}

// TestReady: the daemon is ready, once, when it follows the containers that are there, or
// when the engine has not told of them in time.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, follows := range map[string]bool{"the engine tells": true, "the engine is away": false} {
			d := waiting()
			ctx, cancel := context.WithCancel(t.Context())
			var times atomic.Int32
			ended := make(chan *successor)
			go func() { ended <- d.serveOn(ctx, func() { times.Add(1) }) }()
			time.Sleep(readyPatience - time.Millisecond)
			synctest.Wait()
			if times.Load() != 0 {
				t.Errorf("%s: ready before anybody was followed", name)
			}
			if follows {
				close(d.follower.followed)
			} else {
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
			if times.Load() != 1 {
				t.Errorf("%s: ready %d times; want once", name, times.Load())
			}
			time.Sleep(time.Hour)
			if !follows {
				close(d.follower.followed)
			}
			synctest.Wait()
			if times.Load() != 1 {
				t.Errorf("%s: ready %d times after an hour; want once", name, times.Load())
			}
			cancel()
			if next := <-ended; next != nil {
				t.Errorf("%s: ended for a new daemon; want for its context", name)
			}
		}
	})
}

// TestNotReady: who stops or hands over before is never ready.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := waiting()
		never := func() { t.Error("ready") }
		ended := make(chan *successor)
		go func() { ended <- d.serveOn(t.Context(), never) }()
		next := &successor{}
		d.giver.handing <- next
		if got := <-ended; got != next {
			t.Errorf("hands over to %v; want %v", got, next)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- d.serveOn(ctx, never) }()
		synctest.Wait()
		cancel()
		if got := <-ended; got != nil {
			t.Errorf("hands over to %v; want that it stops", got)
		}
	})
}
