// Package appear waits for a path that somebody is about to make: a folder or a socket of a
// service that has not been started yet. inotify(7) tells of it at once, on the nearest
// folder above it that is there.
package appear

import (
	"context"
	"os"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/inotify"
)

const (
	// A file is mostly not as it is to be in the first moment (a socket is bound
	// before it listens). So it is looked at again, soon and then ever later, for as long
	// as that may take.
	firstLook = time.Millisecond
	lastLook  = 50 * time.Millisecond
	settling  = time.Second
)

// Wait returns true as soon as there reports true of one of paths, and false after patience
// or when ctx ends. It asks at once, and whenever something is made at one of paths or on
// the way to it. A change that inotify does not tell of (a mount, a link further up, a host that has no
// inotify instance left) is not seen, so that callers look again themselves.
func Wait(ctx context.Context, patience time.Duration, there func(path string) bool, paths ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var until time.Time // to which it is looked again and again
	pauses := backoff.Backoff{Base: firstLook, Max: lastLook}
	for {
		w := open(paths)
		for _, path := range paths { // after the watch has begun, lest it is made between the two
			if there(path) {
				w.close()
				return true
			}
		}
		var again <-chan time.Time
		if time.Now().Before(until) {
			again = time.After(pauses.Next())
		}
		told := w.await(ctx, again)
		w.close()
		if ctx.Err() != nil {
			return false
		}
		if told {
			until = time.Now().Add(settling)
			pauses.Reset()
		}
	}
}

// pathWatch is on the nearest folders that exist above some paths. nil watches nothing.
type pathWatch struct {
	file  *os.File
	names map[int32]map[string]bool // by watch descriptor: what is waited for in there
}

// open returns nil where nothing can be watched.
func open(paths []string) *pathWatch {
	fd, err := inotify.Open()
	if err != nil {
		return nil
	}
	w := &pathWatch{file: os.NewFile(uintptr(fd), "inotify"), names: map[int32]map[string]bool{}} // non-blocking, so its reads are the runtime poller's
	for _, path := range paths {
		at, _, name, err := inotify.AddAbove(fd, path)
		if err != nil {
			continue
		}
		if w.names[at] == nil {
			w.names[at] = map[string]bool{}
		}
		w.names[at][name] = true
	}
	return w
}

func (w *pathWatch) close() {
	if w != nil {
		_ = w.file.Close()
	}
}

// await returns true when something was made that w waits for, and false when again or ctx
// says so.
func (w *pathWatch) await(ctx context.Context, again <-chan time.Time) bool {
	if w == nil {
		select {
		case <-again:
		case <-ctx.Done():
		}
		return false
	}
	told := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4<<10)
		for {
			n, err := w.file.Read(buffer)
			if err != nil {
				return
			}
			if w.concerns(buffer[:n]) {
				close(told)
				return
			}
		}
	}()
	defer func() { <-done }()
	defer func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) }() // ends the reading
	select {
	case <-told:
		return true
	case <-again:
	case <-ctx.Done():
	}
	return false
}

// concerns reports whether one of the events in buffer is about what w waits for, or about one
// of its folders itself.
func (w *pathWatch) concerns(buffer []byte) bool {
	for event, err := range inotify.Events(buffer) {
		if err != nil || event.Name == "" || w.names[event.Watch][event.Name] {
			return true
		}
	}
	return false
}
