package dockerd

import (
	"context"
	"io"
	"slices"
)

// findPodman asks whether the engine is Podman, whose stream of events may be late: it
// looks four times a second for what is new in a file of them.
func (w *Watcher) findPodman(ctx context.Context) {
	var v version
	if w.engine.ask(ctx, "asking for its version", "/version", &v) == nil {
		w.late.Store(v.isPodman())
	}
}

// CatchUp has the engine asked at once for containers that were made a moment ago, if its
// stream tells of them late. Whoever sees a sign of a container that is about to start
// calls it; it does not wait.
func (w *Watcher) CatchUp() {
	if !w.late.Load() {
		return
	}
	select {
	case w.catchUp <- struct{}{}:
	default: // it is about to be asked
	}
}

// ask asks for the containers that were made a moment ago, and again if that is wanted
// meanwhile: those that were made since may be missing.
func (f *eventFollower) ask(ctx context.Context) {
	if f.asking {
		f.askAgain = true
		return
	}
	f.asking = true
	f.wg.Go(func() {
		var made []containerEvent
		body, err := f.w.engine.justMade(ctx)
		if err == nil {
			made = f.readMade(body)
			_ = body.Close()
		}
		f.asked <- made // without an answer the stream tells in time
	})
}

// readMade reads what was announced, and is there still, until the answer ends.
func (f *eventFollower) readMade(body io.Reader) []containerEvent {
	var made []containerEvent
	for events := newEventReader(body); ; {
		event, err := events.next()
		if err != nil {
			return made
		}
		switch created := f.w.announcement(event); {
		case created != nil:
			made = append(made, containerEvent{id: created.ID, created: created})
		case event.Action == "remove", event.Action == "destroy":
			made = slices.DeleteFunc(made, func(n containerEvent) bool { return n.id == event.Actor.ID })
		}
	}
}

// learn takes the answer to ask.
func (f *eventFollower) learn(ctx context.Context, made []containerEvent) {
	made = slices.DeleteFunc(made, func(n containerEvent) bool { return f.containers[n.id] != nil })
	for _, n := range made {
		f.announce(ctx, n)
		f.touch(n.id)
	}
	f.asking = false
	if f.askAgain {
		f.askAgain = false
		f.ask(ctx)
	}
}
