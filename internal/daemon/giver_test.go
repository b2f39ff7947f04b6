package daemon

import (
	"testing"
	"testing/synctest"
)

// TestGiverInEveryOrder plays every order of six events. However they come, one daemon at most
// takes over, none does once we have been told to end and none was at it, and what was given
// stays so.
func TestGiverInEveryOrder(t *testing.T) {
	events := []giverEvent{asked, accepts, breaksOff, leaves, hasAll, ends}
	const accepted = 1<<given | 1<<departed | 1<<handedOver
	var play func(g *giver, left int, told bool)
	play = func(g *giver, left int, told bool) {
		if left == 0 {
			return
		}
		for _, e := range events {
			next := &giver{handing: g.handing, state: g.state, ending: g.ending, changed: make(chan struct{})}
			was, changes := next.on(e)
			switch {
			case was != g.state:
				t.Fatalf("the state before is %d; want %d", was, g.state)
			case !changes && next.state != was:
				t.Errorf("event %d in state %d changes nothing, and makes it %d", e, was, next.state)
			case accepted&(1<<was) != 0 && (accepted&(1<<next.state) == 0 || next.state < was):
				t.Errorf("event %d takes back what was given: %d becomes %d", e, was, next.state)
			case e == asked && changes && (told || was != serving):
				t.Errorf("in state %d, told to end: %t, another daemon begins to take over", was, told)
			case next.isEnding() != (told || e == ends):
				t.Errorf("event %d in state %d, told to end: %t; it is to end: %t", e, was, told, next.isEnding())
			case was == closed && next.state != closed:
				t.Errorf("event %d: a daemon that ends is in state %d", e, next.state)
			case next.state == given && was != given && e != accepts:
				t.Errorf("event %d in state %d gives everything away", e, was)
			}
			play(next, left-1, told || e == ends)
		}
	}
	first := newGiver()
	play(&first, 6, false)
}

// TestAwaitingAGiver: a daemon that is told to end waits for the one that takes over, and no
// longer than it may.
func TestAwaitingAGiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			before []giverEvent
			then   giverEvent
		}{
			"breaks off": {[]giverEvent{asked, ends}, breaksOff},
			"has all":    {[]giverEvent{asked, ends, accepts, leaves}, hasAll},
		} {
			g := newGiver()
			for _, e := range test.before {
				g.on(e)
			}
			done := make(chan struct{})
			go func() { defer close(done); g.await(nil, nil, closed, handedOver) }()
			synctest.Wait()
			select {
			case <-done:
				t.Fatalf("%s: it does not wait", name)
			default:
			}
			g.on(test.then)
			<-done
		}
		g := newGiver()
		g.on(asked)
		over := make(chan struct{})
		close(over)
		g.await(over, nil, closed)
		g.await(nil, over, closed)
		if g.on(ends); g.has(closed) {
			t.Error("a daemon is taking over, and is turned away")
		}
	})
}
