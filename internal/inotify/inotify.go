// Package inotify reads what the kernel tells of folders by inotify(7): which file in one was
// made, written or removed. How long to listen, and what an event means, is the caller's.
package inotify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Event is a struct inotify_event with its name.
type Event struct {
	// Watch is the watch descriptor that inotify_add_watch(2) has returned, -1 with IN_Q_OVERFLOW.
	Watch int32
	// Mask has the bits IN_* of what has happened.
	Mask uint32
	// Name is of the file in the watched folder, and empty if the event is about the folder.
	Name string
}

// ErrIncomplete says that a buffer ends within an event, which a read(2) never does.
var ErrIncomplete = errors.New("an inotify event is incomplete")

// Events are the events in what one read(2) has returned, in their order. An error is the last
// of them: it is [ErrIncomplete], and says how many bytes are missing.
func Events(buffer []byte) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for len(buffer) > 0 {
			size := unix.SizeofInotifyEvent
			if len(buffer) >= size {
				size += int(binary.NativeEndian.Uint32(buffer[12:])) // the name, which NULs pad
			}
			if size > len(buffer) {
				yield(Event{}, fmt.Errorf("%w: it has %d bytes, and %d are there", ErrIncomplete, size, len(buffer)))
				return
			}
			e := Event{
				Watch: int32(binary.NativeEndian.Uint32(buffer)),
				Mask:  binary.NativeEndian.Uint32(buffer[4:]),
				Name:  string(bytes.TrimRight(buffer[unix.SizeofInotifyEvent:size], "\x00")),
			}
			if !yield(e, nil) {
				return
			}
			buffer = buffer[size:]
		}
	}
}

// Open makes an inotify instance whose reads do not block. The error carries a hint.
func Open() (fd int, err error) {
	fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1, hint.Wrap(os.NewSyscallError("inotify_init1", err), "raise the limit: sysctl fs.inotify.max_user_instances=1024")
	}
	return fd, nil
}

// Add watches a folder for the events of mask, or for more if it is watched already. The error
// carries a hint if the host has no watch left.
func Add(fd int, folder string, mask uint32) (watch int32, err error) {
	at, err := unix.InotifyAddWatch(fd, folder, mask|unix.IN_ONLYDIR)
	if err != nil {
		err = &os.PathError{Op: "inotify_add_watch", Path: folder, Err: err}
		if errors.Is(err, unix.ENOSPC) {
			err = hint.Wrap(err, "raise the limit: sysctl fs.inotify.max_user_watches=65536")
		}
		return -1, err
	}
	return int32(at), nil
}

// AddAbove watches for path to be made: on the nearest folder above it that is there, which it
// returns, with the name in there that leads to path. A folder is not told of if it was made
// before the watch began, so the caller looks once more. The last error is returned if no
// folder above can be watched.
func AddAbove(fd int, path string) (watch int32, folder, name string, err error) {
	const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	for path = filepath.Clean(path); ; path = folder {
		folder, name = filepath.Dir(path), filepath.Base(path)
		if watch, err = Add(fd, folder, events); err == nil || folder == path {
			return watch, folder, name, err
		}
	}
}
