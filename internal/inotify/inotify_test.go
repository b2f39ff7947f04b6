package inotify

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func instance(t testing.TB) int {
	t.Helper()
	fd, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// told reads what the kernel has queued.
func told(t *testing.T, fd int) []byte {
	t.Helper()
	buffer := make([]byte, 4<<10)
	n, err := unix.Read(fd, buffer)
	if err != nil {
		t.Fatal(err)
	}
	return buffer[:n]
}

func TestEventsOfTheKernel(t *testing.T) {
	dir, fd := t.TempDir(), instance(t)
	at, err := Add(fd, dir, unix.IN_CREATE|unix.IN_DELETE_SELF)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a name of more than sixteen bytes"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	var got []Event
	for e, err := range Events(told(t, fd)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []Event{
		{Watch: at, Mask: unix.IN_CREATE | unix.IN_ISDIR, Name: "a"},
		{Watch: at, Mask: unix.IN_CREATE | unix.IN_ISDIR, Name: "a name of more than sixteen bytes"},
		{Watch: at, Mask: unix.IN_DELETE_SELF},
		{Watch: at, Mask: unix.IN_IGNORED},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestAddAbove watches the nearest folder, which tells of the next one on the way.
func TestAddAbove(t *testing.T) {
	dir, fd := t.TempDir(), instance(t)
	at, folder, name, err := AddAbove(fd, filepath.Join(dir, "run", "docker", "netns"))
	if err != nil || folder != dir || name != "run" {
		t.Fatalf("watches %q for %q, %v; want %q for run", folder, name, err, dir)
	}
	if err := os.MkdirAll(filepath.Join(dir, "run", "docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	for e, err := range Events(told(t, fd)) {
		if err != nil || e.Watch != at || e.Name != name {
			t.Errorf("told of %+v, %v; want %s at %d", e, err, name, at)
		}
	}
	if _, folder, _, err := AddAbove(fd, "/"); err != nil || folder != "/" {
		t.Errorf("above / it watches %q, %v; want / itself", folder, err)
	}
	if _, _, _, err := AddAbove(-1, dir); !errors.Is(err, unix.EBADF) {
		t.Errorf("without an instance: %v; want EBADF", err)
	}
}

func TestAddRefusesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Add(instance(t), path, unix.IN_CREATE); !errors.Is(err, unix.ENOTDIR) || hint.Of(err) != "" {
		t.Errorf("a file is watched: %v; want ENOTDIR", err)
	}
}

// FuzzEvents: whatever the bytes are, the events are within them, and only the last is an error.
func FuzzEvents(f *testing.F) {
	event := binary.NativeEndian.AppendUint32(nil, 1)
	event = binary.NativeEndian.AppendUint32(event, unix.IN_CREATE)
	event = binary.NativeEndian.AppendUint32(event, 0)
	event = binary.NativeEndian.AppendUint32(event, 4)
	event = append(event, "ab\x00\x00"...)
	f.Add(event)
	f.Add(event[:15])
	f.Add(event[:17])
	f.Add(append(event[:len(event):len(event)], event...))
	f.Fuzz(func(t *testing.T, buffer []byte) {
		size, failed := 0, false
		for e, err := range Events(buffer) {
			if failed {
				t.Fatal("an event after the error")
			}
			if failed = err != nil; failed {
				if !errors.Is(err, ErrIncomplete) {
					t.Fatal(err)
				}
				continue
			}
			if size += unix.SizeofInotifyEvent + len(e.Name); size > len(buffer) {
				t.Fatalf("%d bytes of events in %d", size, len(buffer))
			}
		}
		if !failed && len(buffer) > 0 && size == 0 {
			t.Fatal("bytes that are neither an event nor an error")
		}
	})
}
