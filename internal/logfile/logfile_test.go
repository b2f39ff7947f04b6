package logfile

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// logged is a File at a path in a folder of its own, and what it says.
func logged(t *testing.T) (f *File, folder string, said *bytes.Buffer) {
	t.Helper()
	folder, said = t.TempDir(), new(bytes.Buffer)
	return New(filepath.Join(folder, "access.log"), slog.New(slog.NewTextHandler(said, nil))), folder, said
}

func write(t *testing.T, f *File, line string) {
	t.Helper()
	if n, err := f.Write([]byte(line + "\n")); err != nil || n != len(line)+1 {
		t.Errorf("Write = %d, %v", n, err)
	}
}

func holds(t *testing.T, file, want string) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s has %q, %v; want %q", filepath.Base(file), got, err, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRotation: lines go on into a file that was renamed, until there is another at its path or Reopen makes one;
// what was there before is kept.
func TestRotation(t *testing.T) {
	f, folder, said := logged(t)
	at := func(name string) string { return filepath.Join(folder, name) }
	must(t, os.WriteFile(f.path, []byte("before\n"), 0o600))
	write(t, f, "1")
	must(t, os.Rename(f.path, at("1")))
	write(t, f, "2")
	f.Reopen()
	write(t, f, "3")
	holds(t, at("1"), "before\n1\n2\n")
	holds(t, f.path, "3\n")
	if s, err := os.Stat(f.path); err != nil || s.Mode()&^0o640 != 0 {
		t.Errorf("the file is made as %v, %v; want 0640", s.Mode(), err)
	}
	must(t, os.Rename(f.path, at("2")))
	must(t, os.WriteFile(f.path, nil, 0o600)) // as logrotate's create does
	write(t, f, "4")
	holds(t, at("2"), "3\n")
	holds(t, f.path, "4\n")
	must(t, os.Remove(f.path))
	write(t, f, "5")
	holds(t, f.path, "5\n")
	must(t, os.Truncate(f.path, 0)) // as logrotate's copytruncate does
	write(t, f, "6")
	holds(t, f.path, "6\n")
	if said.Len() > 0 {
		t.Errorf("the log says\n%s", said)
	}
}

// TestFullDisk has every write fail: that is said once, with what to do, and so is its end.
func TestFullDisk(t *testing.T) {
	f, _, said := logged(t)
	must(t, os.Symlink("/dev/full", f.path))
	for range 3 {
		if n, err := f.Write([]byte("lost\n")); n != 0 || !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if text := said.String(); strings.Count(text, "cannot be written") != 1 || !strings.Contains(text, "make room") || strings.Contains(text, "again") {
		t.Errorf("the log says\n%s", text)
	}
	must(t, os.Remove(f.path))
	must(t, os.WriteFile(f.path, nil, 0o600))
	write(t, f, "there")
	holds(t, f.path, "there\n")
	if strings.Count(said.String(), "is written again") != 1 {
		t.Errorf("the log says\n%s", said)
	}
}

// TestFolderThatIsAway: lines are lost until it is there, which is looked for every few seconds; a file that is open
// stays when it cannot be opened again.
func TestFolderThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, folder, said := logged(t)
		f.path = filepath.Join(folder, "logs", "access.log")
		for range 3 {
			if _, err := f.Write([]byte("lost\n")); err == nil {
				t.Fatal("a line is written to a folder that is not there")
			}
		}
		must(t, os.Mkdir(filepath.Dir(f.path), 0o700))
		time.Sleep(retry)
		write(t, f, "1")
		must(t, os.Rename(filepath.Dir(f.path), filepath.Join(folder, "moved")))
		for range 3 {
			f.Reopen()
			write(t, f, "2")
		}
		holds(t, filepath.Join(folder, "moved", "access.log"), "1\n2\n2\n2\n")
		text := said.String()
		if strings.Count(text, "cannot be written") != 1 || strings.Count(text, "cannot be opened again") != 1 || strings.Count(text, `hint="make the folder`) != 2 {
			t.Errorf("the log says\n%s", text)
		}
	})
}

// TestWays: which paths are opened, and which are refused since somebody else could have laid the way.
func TestWays(t *testing.T) {
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	for _, name := range []string{"ours", "theirs", "ours/deep"} {
		must(t, os.Mkdir(at(name), 0o700))
	}
	must(t, os.Chmod(at("theirs"), 0o777))
	must(t, os.WriteFile(at("ours/there"), nil, 0o600))
	for _, name := range []string{"ours/hard", "theirs/hard"} {
		must(t, os.Link(at("ours/there"), at(name)))
	}
	for name, to := range map[string]string{
		"ours/link": "deep/../../ours/./new2", "ours/absolute": at("ours/new3"), "ours/folder": at("theirs"), "ours/loop": "loop",
		"theirs/link": at("ours/new4"), "theirs/folder": at("ours"), "ours/through": at("theirs/link"), "ours/root": "/",
	} {
		must(t, os.Symlink(to, at(name)))
	}
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	must(t, unix.Mkfifo(at("ours/fifo"), 0o600))
	ways := map[string]string{ // what the error says; "" for none
		at("ours/new1"): "", at("ours/link"): "", at("ours/absolute"): "", at("ours/folder/new5"): "", at("theirs/new6"): "", at("ours/hard"): "",
		at("ours//./deep/../new7"):                   "",
		at("theirs/link"):                            "symbolic link in a folder that others may write",
		at("theirs/folder/new8"):                     "symbolic link in a folder that others may write",
		at("ours/through"):                           "symbolic link in a folder that others may write",
		at("theirs/hard"):                            "not the daemon's own",
		at("ours/loop"):                              "too many levels",
		at("ours/deep"):                              "is a directory",
		at("ours/root"):                              "is a directory",
		at("ours/there/below"):                       "not a directory",
		at("nowhere/new"):                            "no such file",
		at("ours/fifo"):                              "no such device", // nobody reads
		"/proc/self/fd/" + strconv.Itoa(int(w.Fd())): "",
	}
	if os.Geteuid() == 0 {
		must(t, os.WriteFile(at("theirs/other"), nil, 0o666))
		must(t, os.Chown(at("theirs/other"), 65534, 65534))
		ways[at("theirs/other")] = "not the daemon's own"
	}
	for path, want := range ways {
		file, err := openPath(path)
		if file != nil {
			must(t, file.Close())
		}
		switch {
		case want == "" && err != nil:
			t.Error(err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
	if _, err := os.Lstat(at("ours/new4")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a link in a folder of others was followed")
	}
}

// TestPipeThatTakesNothing: it is not waited for for ever, and what comes after half a line begins a new one.
func TestPipeThatTakesNothing(t *testing.T) {
	f, _, said := logged(t)
	must(t, unix.Mkfifo(f.path, 0o600))
	reader, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	defer reader.Close()
	f.patience = time.Millisecond
	line := strings.Repeat("x", 99) + "\n"
	n, err := f.Write([]byte(strings.Repeat(line, 2000)))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n%len(line) == 0 {
		t.Fatalf("Write = %d, %v; want half a line", n, err)
	}
	f.patience = time.Minute
	read := make([]byte, n)
	if m, err := reader.Read(read); m != n || err != nil {
		t.Fatalf("%d, %v; want %d bytes", m, err, n)
	}
	write(t, f, "next")
	if m, err := reader.Read(read); err != nil || string(read[:m]) != "\nnext\n" {
		t.Errorf("then comes %q, %v", read[:m], err)
	}
	if text := said.String(); !strings.Contains(text, "have the pipe read faster") || !strings.Contains(text, "written again") {
		t.Errorf("the log says\n%s", text)
	}
}
