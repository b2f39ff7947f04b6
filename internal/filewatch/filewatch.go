// Package filewatch follows the content of one small file, however it is replaced:
// written anew in place, renamed over, or reached by a symbolic link that is
// swapped, as Kubernetes does with the files of a ConfigMap.
//
// The file's folder is watched by inotify, so a change is seen at once. Beside
// that the file is looked at once a second, which finds what inotify cannot tell:
// a link further up that is swapped, a network file system, a host that has no
// inotify instance left.
package filewatch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/inotify"
)

// lookEvery is the time between two looks at the file. A file that has changed
// since the last one without an event is read when it has stayed the same for one look
// more: it may be half written.
const lookEvery = time.Second

// pause is the least time between two looks, however many events there are: the
// folder may be a busy one.
const pause = time.Millisecond

// Follow calls changed with the content of the file at path, and again whenever it
// is another, until ctx ends. A file that cannot be read, or is larger than limit
// bytes, is an error, which carries a hint, and is told once.
func Follow(ctx context.Context, path string, limit int64, changed func(content []byte, err error)) {
	follow(ctx, path, limit, lookEvery, changed)
}

func follow(ctx context.Context, path string, limit int64, every time.Duration, changed func(content []byte, err error)) {
	f := &fileFollower{path: path, limit: limit, changed: changed}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for first := true; ctx.Err() == nil; first = false {
		events := openEvents(filepath.Dir(path), filepath.Base(path))
		if first {
			f.read(identify(path))
		}
		f.run(ctx, events, ticker.C)
		events.close()
	}
}

type fileFollower struct {
	path    string
	limit   int64
	changed func([]byte, error)

	last    [sha256.Size]byte // of what was told: the content itself may be a MiB
	lastErr error
	told    bool
	seen    identity // of what was read last
	before  identity // of the last look
}

// run returns when ctx has ended or the watch of the folder is to be made anew.
func (f *fileFollower) run(ctx context.Context, events *events, tick <-chan time.Time) {
	var changes <-chan bool
	if events != nil {
		changes = events.changes
	}
	for {
		select {
		case <-ctx.Done():
			return
		case surely, ok := <-changes:
			if !ok {
				select { // the folder may be gone: no hurry
				case <-tick:
				case <-ctx.Done():
				}
				return
			}
			// Where our name is a link, an event of another may be that of a further
			// one on the way to the file. A file of our name has events of its own; one
			// that is new has nobody closed yet.
			if now := identify(f.path); surely || isLink(f.path) && now.isAnother(f.seen) {
				f.read(now)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		case <-tick:
			now := identify(f.path)
			changed := now != f.seen && now == f.before
			if changed {
				f.read(now)
			}
			f.before = now
			if events == nil || changed {
				return // the folder may be another by now, or one that can be watched
			}
		}
	}
}

// read reads the file, and tells of what it has not told before.
func (f *fileFollower) read(now identity) {
	f.seen, f.before = now, now
	content, err := readFile(f.path, f.limit)
	digest := sha256.Sum256(content)
	switch {
	case err != nil && f.lastErr != nil && err.Error() == f.lastErr.Error():
		return
	case err == nil && f.told && f.lastErr == nil && digest == f.last:
		return
	}
	f.last, f.lastErr, f.told = digest, err, true
	f.changed(content, err)
}

// identity tells one state of a file from another without reading it.
type identity struct {
	there          bool
	device, inode  uint64
	size           int64
	mtime, changed unix.Timespec
}

// isAnother says that there is a file, and not the one that o was. The same one
// with another size may be half written.
func (i identity) isAnother(o identity) bool {
	return i.there && (i.device != o.device || i.inode != o.inode)
}

func identify(path string) identity {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return identity{}
	}
	return identity{there: true, device: s.Dev, inode: s.Ino, size: s.Size, mtime: s.Mtim, changed: s.Ctim}
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

func readFile(path string, limit int64) ([]byte, error) {
	// Without waiting: it may be a pipe that nobody writes to.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hint.Wrap(err, "create it; it is read as soon as it is there")
	case errors.Is(err, fs.ErrPermission):
		return nil, hint.Wrap(err, "let the daemon's user read it")
	case err != nil:
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, hint.Errorf("name a file", "%s is not a regular file", path)
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(content)) > limit {
		return nil, hint.Errorf("split it", "%s is larger than %d bytes", path, limit)
	}
	return content, nil
}

// events is what inotify tells of a folder.
type events struct {
	file    *os.File
	changes chan bool // true: the file itself was written or replaced
	quit    chan struct{}
	done    chan struct{}
}

// openEvents returns nil when the folder cannot be watched.
func openEvents(folder, name string) *events {
	fd, err := inotify.Open()
	if err != nil {
		return nil
	}
	// Not IN_MODIFY: a file is read when its writer has closed it, not half written.
	const mask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_ATTRIB | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF
	if _, err := inotify.Add(fd, folder, mask); err != nil {
		_ = unix.Close(fd)
		return nil
	}
	e := &events{
		file:    os.NewFile(uintptr(fd), "inotify"), // non-blocking, so its reads are the runtime poller's
		changes: make(chan bool), quit: make(chan struct{}), done: make(chan struct{}),
	}
	go e.readAll(folder, name)
	return e
}

func (e *events) close() {
	if e == nil {
		return
	}
	close(e.quit)
	e.file.Close()
	<-e.done
}

// readAll passes events on until the folder is gone or the file is closed. Many at
// once are one change.
func (e *events) readAll(folder, name string) {
	defer close(e.done)
	defer close(e.changes)
	buffer := make([]byte, 16<<10)
	for {
		n, err := e.file.Read(buffer)
		if err != nil {
			return
		}
		surely, gone := digest(buffer[:n], folder, name)
		select {
		case e.changes <- surely:
		case <-e.quit:
			return
		}
		if gone {
			return
		}
	}
}

// digest looks for the file in what a read of inotify(7) has returned. surely says that it was
// written or replaced as a whole: a file that is only created may still be empty.
func digest(buffer []byte, folder, name string) (surely, gone bool) {
	for event, err := range inotify.Events(buffer) {
		if err != nil {
			break
		}
		if event.Mask&(unix.IN_IGNORED|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF) != 0 {
			gone = true
		}
		switch {
		case event.Mask&unix.IN_Q_OVERFLOW != 0:
			surely = true
		case event.Name != name:
		case event.Mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ATTRIB) != 0:
			surely = true
		case event.Mask&unix.IN_CREATE != 0:
			surely = surely || isLink(filepath.Join(folder, name))
		}
	}
	return surely, gone
}
