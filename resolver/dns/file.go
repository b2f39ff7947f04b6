package dns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// watchedFile is a parsed file that is read again once its modification time or
// size differs. A file that is missing reads as an empty one: hosts(5) and
// resolv.conf(5) both have a meaning for that.
type watchedFile[T any] struct {
	path  string
	parse func(io.Reader) (T, error)

	mu      sync.Mutex
	read    bool
	modTime time.Time
	size    int64
	value   T
}

func (f *watchedFile[T]) load() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var modTime time.Time
	var size int64 = -1
	switch info, err := os.Stat(f.path); {
	case err == nil:
		modTime, size = info.ModTime(), info.Size()
	case !errors.Is(err, fs.ErrNotExist):
		return f.value, err
	}
	if f.read && modTime.Equal(f.modTime) && size == f.size {
		return f.value, nil
	}
	text, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.value, err
	}
	value, err := f.parse(bytes.NewReader(text))
	if err != nil {
		return f.value, fmt.Errorf("reading %s: %w", f.path, err)
	}
	f.read, f.modTime, f.size, f.value = true, modTime, size, value
	return value, nil
}
