package filewatch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// told is what Follow said.
type told struct {
	content string
	err     error
}

// The file is looked at so often beside the events: never, so that what a test sees
// an event brought; or often.
const (
	never = time.Hour
	often = 10 * time.Millisecond
)

// start follows path until the test ends.
func start(t *testing.T, path string, every time.Duration) (next func() told) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, done := make(chan told, 100), make(chan struct{})
	go func() {
		defer close(done)
		follow(ctx, path, 1000, every, func(content []byte, err error) { changes <- told{string(content), err} })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func() told {
		t.Helper()
		select {
		case n := <-changes:
			return n
		case <-time.After(patience):
			t.Fatal("nothing was told")
			return told{}
		}
	}
}

func want(t *testing.T, got told, content string) {
	t.Helper()
	if got.err != nil || got.content != content {
		t.Fatalf("told %q, %v; want %q", got.content, got.err, content)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestEvents(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "list")
	write(t, path, "one")
	next := start(t, path, never)
	want(t, next(), "one")

	write(t, path, "two")
	want(t, next(), "two")

	elsewhere := t.TempDir() // so that the renaming is all that happens in the folder
	write(t, filepath.Join(elsewhere, "new"), "three")
	rename(t, filepath.Join(elsewhere, "new"), path)
	want(t, next(), "three")

	write(t, filepath.Join(dir, "other"), "x") // not ours

	// A writer that takes its time is waited for: half a file is never told.
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"fo", "ur"} {
		if _, err := file.WriteString(part); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "other"), part)
	}
	file.Close()
	want(t, next(), "four")

	other := filepath.Join(elsewhere, "five")
	write(t, other, "five")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	link(t, other, path) // not renamed over: made anew
	want(t, next(), "five")
}

// A file that is made anew is read when its writer has closed it.
func TestNewFileIsNotReadHalf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "list")
	write(t, path, "one")
	next := start(t, path, never)
	want(t, next(), "one")
	elsewhere := t.TempDir()
	for i := range 10 {
		rename(t, path, filepath.Join(elsewhere, strconv.Itoa(i))) // so that no inode is used again
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"half", " and half ", strconv.Itoa(i)} {
			if _, err := file.WriteString(part); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "other"), part)
			time.Sleep(2 * pause) // it is to have had the time to read too early
		}
		file.Close()
		want(t, next(), "half and half "+strconv.Itoa(i))
	}
}

// What no event tells is found by looking.
func TestLooks(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for _, folder := range []string{one, two} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "list"), filepath.Base(folder))
	}
	current := filepath.Join(dir, "current")
	link(t, one, current)
	next := start(t, filepath.Join(current, "list"), often)
	want(t, next(), "one")

	link(t, two, current+".new")
	rename(t, current+".new", current)
	want(t, next(), "two")

	if err := os.RemoveAll(two); err != nil {
		t.Fatal(err)
	}
	if got := next(); !errors.Is(got.err, fs.ErrNotExist) || hint.Of(got.err) == "" {
		t.Fatalf("told %+v; want that it is gone, and what to do", got)
	}
	if err := os.Mkdir(two, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(two, "new"), "two") // as it was before
	rename(t, filepath.Join(two, "new"), filepath.Join(two, "list"))
	want(t, next(), "two")
}

func TestRefuses(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"is larger than 1000 bytes":  func(path string) error { return os.WriteFile(path, make([]byte, 1001), 0o600) },
		"list is not a regular file": func(path string) error { return unix.Mkfifo(path, 0o600) }, // nobody writes to it
		"not a regular file":         func(path string) error { return os.Mkdir(path, 0o700) },
		"no such file or directory":  func(string) error { return nil },
	} {
		path := filepath.Join(t.TempDir(), "list")
		if err := prepare(path); err != nil {
			t.Fatal(err)
		}
		next := start(t, path, often)
		if got := next(); got.err == nil || !strings.Contains(got.err.Error(), name) || hint.Of(got.err) == "" {
			t.Errorf("told %+v; want that it %s, with a hint", got, name)
		}
		good := path + ".good"
		write(t, good, "good")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		rename(t, good, path)
		got := next()
		for errors.Is(got.err, fs.ErrNotExist) { // seen just before the renaming
			got = next()
		}
		want(t, got, "good")
	}
}
