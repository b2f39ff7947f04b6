package dns

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWatchedFile(t *testing.T) {
	parsed := 0
	f := watchedFile[string]{
		path:  filepath.Join(t.TempDir(), "resolv.conf"),
		parse: func(text string) string { parsed++; return text },
	}
	expect := func(what, text string, version int) {
		t.Helper()
		if value, got, err := f.load(); err != nil || value != text || got != version {
			t.Errorf("%s: %q, version %d, %v; want %q, version %d", what, value, got, err, text, version)
		}
	}
	old := time.Now().Add(-time.Hour)
	age := func(path string) {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	expect("missing", "", 1)
	expect("still missing", "", 1)

	write(t, f.path, "one")
	expect("made", "one", 2)
	write(t, f.path, "two") // as long, and perhaps within one step of the file system's clock
	age(f.path)
	expect("written", "two", 3)

	other := f.path + ".new"
	write(t, other, "six")
	age(other)
	if err := os.Rename(other, f.path); err != nil {
		t.Fatal(err)
	}
	expect("replaced by one of the same size and time", "six", 4)

	now := time.Now()
	if err := os.Chtimes(f.path, now, now); err != nil {
		t.Fatal(err)
	}
	expect("only touched", "six", 4)
	write(t, f.path, "ten")
	if err := os.Chtimes(f.path, now, now); err != nil { // as a coarse clock would
		t.Fatal(err)
	}
	expect("written again within a step of the clock", "ten", 5)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	expect("removed", "", 6)
	if parsed != 6 {
		t.Errorf("parsed %d times", parsed)
	}
	if err := os.Mkdir(f.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.load(); err == nil {
		t.Error("a folder can be read")
	}
}
