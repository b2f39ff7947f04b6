package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/appear"
	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// lookForFolder is how often to look for a folder that is not there, beside being told
	// when it appears: the engine makes it for its first container.
	lookForFolder = time.Second

	// The mount comes a moment after the file, and nothing announces it. So it is
	// looked for, soon and then ever later, until it is surely none.
	firstLook = 200 * time.Microsecond
	lastLook  = 50 * time.Millisecond
	patience  = 2 * time.Second
)

// Watch calls appeared with the path of each container's network namespace that
// is mounted in the first of folders that exists: those that are there already,
// and each new one within a millisecond. It calls it from one goroutine, which
// should not be held up, and tells of one namespace at least once.
//
// It returns nil when ctx has ended. A folder that does not exist yet, or is
// removed and made again, is waited for; the error is one of inotify itself, and
// carries a hint.
func Watch(ctx context.Context, folders []string, appeared func(path string)) error {
	return follow(ctx, folders, lookForFolder, appeared)
}

func follow(ctx context.Context, folders []string, look time.Duration, appeared func(path string)) error {
	for {
		w, err := firstFolder(folders)
		if err == nil {
			err = w.run(ctx, appeared)
		}
		if err != nil && !isGone(err) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		appear.Wait(ctx, look, isFolder, folders...)
	}
}

// watch is on one folder for as long as that exists.
type watch struct {
	folder  string
	file    *os.File          // an inotify instance
	waiting map[string]*vigil // files that may become namespaces, by name
	buffer  [16 << 10]byte
}

// vigil is when to look at a file again.
type vigil struct {
	next, end time.Time
	pause     time.Duration
}

func open(folder string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, hint.Wrap(os.NewSyscallError("inotify_init1", err), "raise the limit: sysctl fs.inotify.max_user_instances=1024")
	}
	file := os.NewFile(uintptr(fd), "inotify") // non-blocking, so its reads are the runtime poller's
	const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, folder, events); err != nil {
		_ = file.Close()
		err = &os.PathError{Op: "inotify_add_watch", Path: folder, Err: err}
		if errors.Is(err, unix.ENOSPC) {
			err = hint.Wrap(err, "raise the limit: sysctl fs.inotify.max_user_watches=65536")
		}
		return nil, err
	}
	return &watch{folder: folder, file: file, waiting: map[string]*vigil{}}, nil
}

// run returns nil when ctx has ended or the folder is gone.
func (w *watch) run(ctx context.Context, appeared func(path string)) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.Close() })
	defer stop()
	defer func() { _ = w.file.Close() }()
	if err := w.list(); err != nil {
		return err
	}
	for {
		n, err := w.read(w.look(appeared))
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("watch %s: %w", w.folder, err)
		}
		there, err := w.take(w.buffer[:n])
		if err != nil || !there {
			return err
		}
	}
}

// read waits for events until the deadline; a zero one is none.
func (w *watch) read(deadline time.Time) (int, error) {
	if err := w.file.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return w.file.Read(w.buffer[:])
}

// list takes every file of the folder for a new one.
func (w *watch) list() error {
	entries, err := os.ReadDir(w.folder)
	for _, e := range entries {
		w.await(e.Name())
	}
	return err
}

func (w *watch) await(name string) {
	if !isContainers(name) {
		return
	}
	now := time.Now()
	w.waiting[name] = &vigil{next: now, end: now.Add(patience), pause: firstLook}
}

// take acts on events, each a struct inotify_event and a name that NULs pad. It
// reports whether the folder is still there.
func (w *watch) take(events []byte) (bool, error) {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if size > len(events) {
			return false, fmt.Errorf("watch %s: an event of %d bytes in %d", w.folder, size, len(events))
		}
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:size], "\x00"))
		events = events[size:]
		switch {
		case mask&unix.IN_IGNORED != 0:
			return false, nil
		case mask&unix.IN_Q_OVERFLOW != 0:
			if err := w.list(); err != nil {
				return false, err
			}
		case mask&unix.IN_DELETE != 0:
			delete(w.waiting, name)
		default:
			w.await(name)
		}
	}
	return true, nil
}

// look looks at the files whose time has come, and returns when to do so next:
// zero if there is nothing to look at.
func (w *watch) look(appeared func(path string)) (next time.Time) {
	for name, v := range w.waiting {
		now := time.Now()
		if !v.next.After(now) {
			path := filepath.Join(w.folder, name)
			if Mounted(path) {
				delete(w.waiting, name)
				appeared(path)
				continue
			}
			if now.After(v.end) {
				delete(w.waiting, name)
				continue
			}
			v.next = now.Add(v.pause)
			v.pause = min(2*v.pause, lastLook)
		}
		if next.IsZero() || v.next.Before(next) {
			next = v.next
		}
	}
	return next
}
