package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/inotify"
)

const (
	// lookForFolder is how often to look for a folder that is not there, beside being told
	// when it appears: the engine makes it for its first container.
	lookForFolder = time.Second

	// The mount comes a moment after the file. Where the kernel does not tell of mounts it
	// is looked for, soon and then ever later, until it is surely none.
	firstLook = 200 * time.Microsecond
	lastLook  = 50 * time.Millisecond
	patience  = 2 * time.Second
)

// mountWatch is on one folder for as long as that exists.
type mountWatch struct {
	folder  string
	events  int                      // of inotify(7)
	waiting map[string]*pendingMount // files that may become namespaces, by name
	listed  map[string]bool          // what was there, or may have been, when the folder was listed
}

// pendingMount is a file at which a namespace may be mounted soon: when to look at it again.
type pendingMount struct {
	next, end time.Time
	pauses    backoff.Backoff
	fresh     bool // it was not there when the folder was listed
}

func open(folder string) (*mountWatch, error) {
	fd, err := inotify.Open()
	if err != nil {
		return nil, err
	}
	if _, err := inotify.Add(fd, folder, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &mountWatch{folder: folder, events: fd, waiting: map[string]*pendingMount{}, listed: map[string]bool{}}, nil
}

func (w *mountWatch) close() { _ = unix.Close(w.events) }

// run returns nil when ctx has ended or the folder is gone. It is called on t's thread.
func (w *mountWatch) run(ctx context.Context, t *thread, appeared func(path string, fresh bool)) error {
	if err := w.list(); err != nil {
		return err
	}
	for {
		next := w.look(appeared)
		if ctx.Err() != nil {
			return nil
		}
		told, err := t.wait(w.events, len(w.waiting) > 0, next)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if told.mounts {
			w.hurry()
		}
		if !told.events {
			continue
		}
		there, err := w.read(t.buffer[:])
		if err != nil || !there {
			return err
		}
	}
}

// read takes the events that wait. It reports whether the folder is still there.
func (w *mountWatch) read(buffer []byte) (bool, error) {
	n, err := unix.Read(w.events, buffer)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("watch %s: %w", w.folder, os.NewSyscallError("read", err))
	}
	return w.take(buffer[:n])
}

// list takes every file of the folder for a new one.
func (w *mountWatch) list() error {
	entries, err := os.ReadDir(w.folder)
	for _, e := range entries {
		w.listed[e.Name()] = true
		w.await(e.Name())
	}
	return err
}

func (w *mountWatch) await(name string) {
	if !isContainers(name) {
		return
	}
	now := time.Now()
	w.waiting[name] = &pendingMount{next: now, end: now.Add(patience), pauses: backoff.Backoff{Base: firstLook, Max: lastLook}, fresh: !w.listed[name]}
}

// hurry has every file looked at now: something has been mounted somewhere.
func (w *mountWatch) hurry() {
	for _, v := range w.waiting {
		v.next = time.Time{}
	}
}

// take acts on the events in buffer. It reports whether the folder is still there.
func (w *mountWatch) take(buffer []byte) (bool, error) {
	for event, err := range inotify.Events(buffer) {
		switch {
		case err != nil:
			return false, fmt.Errorf("watch %s: %w", w.folder, err)
		case event.Mask&unix.IN_IGNORED != 0:
			return false, nil
		case event.Mask&unix.IN_Q_OVERFLOW != 0:
			if err := w.list(); err != nil {
				return false, err
			}
		case event.Mask&unix.IN_DELETE != 0:
			delete(w.waiting, event.Name)
			delete(w.listed, event.Name)
		default:
			w.await(event.Name) // which may have been listed
		}
	}
	return true, nil
}

// look looks at the files whose time has come, and returns when to do so next:
// zero if there is nothing to look at.
func (w *mountWatch) look(appeared func(path string, fresh bool)) (next time.Time) {
	for name, v := range w.waiting {
		now := time.Now()
		if !v.next.After(now) {
			path := filepath.Join(w.folder, name)
			if Mounted(path) {
				delete(w.waiting, name)
				appeared(path, v.fresh)
				continue
			}
			if now.After(v.end) {
				delete(w.waiting, name)
				continue
			}
			v.next = now.Add(v.pauses.Next())
		}
		if next.IsZero() || v.next.Before(next) {
			next = v.next
		}
	}
	return next
}
