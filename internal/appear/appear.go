// Package appear waits for a path that somebody is about to make: a folder or a socket of a
// service that has not been started yet. inotify(7) tells of it at once, on the nearest
// folder above it that is there.
package appear

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// What is made is mostly not as it is to be in the first moment (a socket is bound
	// before it listens). So it is looked at again, soon and then ever later, for as long
	// as that may take.
	firstLook = time.Millisecond
	lastLook  = 50 * time.Millisecond
	settling  = time.Second
)

// Wait returns true as soon as there reports true of one of paths, and false after patience
// or when ctx ends. It asks at once, and whenever something is made at one of paths or on
// the way to it. What inotify does not tell (a mount, a link further up, a host that has no
// inotify instance left) is not seen, so that callers look again themselves.
func Wait(ctx context.Context, patience time.Duration, there func(path string) bool, paths ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var until time.Time // to which it is looked again and again
	for pause := firstLook; ; {
		w := open(paths)
		for _, path := range paths { // after the watch has begun, lest it is made between the two
			if there(path) {
				w.close()
				return true
			}
		}
		var again <-chan time.Time
		if time.Now().Before(until) {
			again = time.After(pause)
			pause = min(2*pause, lastLook)
		}
		told := w.await(ctx, again)
		w.close()
		if ctx.Err() != nil {
			return false
		}
		if told {
			until, pause = time.Now().Add(settling), firstLook
		}
	}
}

// watch is on the nearest folders that exist above some paths. nil watches nothing.
type watch struct {
	file  *os.File
	names map[int32]map[string]bool // by watch descriptor: what is waited for in there
}

// open returns nil where nothing can be watched.
func open(paths []string) *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &watch{file: os.NewFile(uintptr(fd), "inotify"), names: map[int32]map[string]bool{}} // non-blocking, so its reads are the runtime poller's
	for _, path := range paths {
		for {
			folder, name := filepath.Split(filepath.Clean(path))
			const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
			at, err := unix.InotifyAddWatch(fd, folder, events)
			if err == nil {
				if w.names[int32(at)] == nil {
					w.names[int32(at)] = map[string]bool{}
				}
				w.names[int32(at)][name] = true
				break
			}
			if path = filepath.Dir(filepath.Clean(path)); path == "/" || path == "." {
				break
			}
		}
	}
	return w
}

func (w *watch) close() {
	if w != nil {
		_ = w.file.Close()
	}
}

// await returns true when something was made that w waits for, and false when again or ctx
// says so.
func (w *watch) await(ctx context.Context, again <-chan time.Time) bool {
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

// concerns reports whether one of events, each a struct inotify_event and a name that NULs
// pad, is about what w waits for, or about one of its folders itself.
func (w *watch) concerns(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		at := int32(binary.NativeEndian.Uint32(events))
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if size > len(events) {
			return true
		}
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:size], "\x00"))
		if name == "" || w.names[at][name] {
			return true
		}
		events = events[size:]
	}
	return false
}
