package dns

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"
)

// coarse is more than the steps in which file systems count modification times. A
// file may be written again within a step without looking any newer.
const coarse = time.Second

// watchedFile is a parsed file that is read again once it looks different:
// replaced, written or gone. A file that is missing reads as an empty one:
// hosts(5) and resolv.conf(5) both have a meaning for that.
type watchedFile[T any] struct {
	path  string
	parse func(text string) T // what it cannot read it skips

	mu      sync.Mutex
	version int         // 0 until it was read; grows with every change of its text
	info    fs.FileInfo // nil when it was missing
	readAt  time.Time
	text    string
	value   T
}

// load returns the file's content and a number that differs after every change.
func (f *watchedFile[T]) load() (value T, version int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		info = nil
	case err != nil:
		return f.value, f.version, err
	}
	if f.version > 0 && f.looksLike(info) {
		return f.value, f.version, nil
	}
	readAt := time.Now()
	text, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.value, f.version, err
	}
	f.info, f.readAt = info, readAt
	if f.version == 0 || f.text != string(text) {
		f.version++
		f.text = string(text)
		f.value = f.parse(f.text)
	}
	return f.value, f.version, nil
}

// looksLike tells whether the file has not changed since it was read, as far as
// info can tell.
func (f *watchedFile[T]) looksLike(info fs.FileInfo) bool {
	if f.info == nil || info == nil {
		return f.info == nil && info == nil
	}
	return os.SameFile(f.info, info) && f.info.Size() == info.Size() && f.info.ModTime().Equal(info.ModTime()) &&
		f.readAt.Sub(info.ModTime()) > coarse
}
