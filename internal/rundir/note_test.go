package rundir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNote: a note is read once, by whoever comes; the last one counts.
func TestNote(t *testing.T) {
	dir, err := Open(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	name := dir.Counters("127.0.0.1:1")
	if text, err := dir.TakeNote(name, 10); text != nil || err != nil {
		t.Errorf("a note that nobody wrote is %q, %v", text, err)
	}
	for _, text := range []string{"first", "second"} {
		if err := dir.WriteNote(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir.Path(name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it is %v, %v", info, err)
	}
	for range 2 {
		if text, err := dir.ReadNote(name, 6); string(text) != "second" || err != nil {
			t.Errorf("read, it is %q, %v", text, err)
		}
	}
	if text, err := dir.TakeNote(name, 6); string(text) != "second" || err != nil {
		t.Errorf("it is %q, %v", text, err)
	}
	if text, err := dir.TakeNote(name, 6); text != nil || err != nil {
		t.Errorf("the second time it is %q, %v", text, err)
	}
	if err := dir.WriteNote(name, []byte("second")); err != nil {
		t.Fatal(err)
	}
	if text, err := dir.TakeNote(name, 5); text != nil || err == nil || !strings.Contains(err.Error(), "more than 5 bytes") {
		t.Errorf("a longer one is %q, %v", text, err)
	}
	if err := os.Symlink("/etc/passwd", dir.Path(name)); err != nil {
		t.Fatal(err)
	}
	if text, err := dir.TakeNote(name, 1000); text != nil || err == nil {
		t.Errorf("a link is followed: %q, %v", text, err)
	}
	if err := os.Remove(dir.Path(name)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(dir.Path(name), 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(dir.Path(name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	giveUp := time.AfterFunc(10*time.Second, func() { writer.Close() })
	if text, err := dir.TakeNote(name, 1000); text != nil || err == nil {
		t.Errorf("a pipe is read: %q, %v", text, err)
	}
	if !giveUp.Stop() {
		t.Error("a pipe that nobody writes to is waited for")
	}
	writer.Close()
	if entries, err := os.ReadDir(dir.String()); err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v; want the pipe alone", entries, err)
	}
}
