package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// touch makes the file that the engine makes before it mounts a namespace on it.
func touch(t *testing.T, path string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, path); err != nil {
		t.Fatal(err)
	}
}

// mount stands in for the engine's: a link leads to a namespace as a mount does,
// and takes no privilege. What touch made changes its kind without an event in
// its folder, as below a mount.
func mount(t *testing.T, path string) {
	t.Helper()
	const namespace = "/proc/self/ns/net"
	file, err := os.Readlink(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.Symlink(namespace, path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(namespace, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link, file); err != nil {
		t.Fatal(err)
	}
}

// watching runs Watch until the test ends and hands on what appears.
func watching(t *testing.T, folders ...string) <-chan string {
	t.Helper()
	return watchingEvery(t, lookForFolder, folders...)
}

// watchingEvery is watching, where folders are looked for that seldom.
func watchingEvery(t *testing.T, look time.Duration, folders ...string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	found, ended := make(chan string, 100), make(chan error, 1)
	w := &Watcher{Folders: folders, Appeared: func(path string, _ bool) { found <- path }}
	go func() { ended <- w.run(ctx, look) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return found
}

func want(t *testing.T, found <-chan string, path string) {
	t.Helper()
	select {
	case got := <-found:
		if got != path {
			t.Errorf("%s appeared, want %s", got, path)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not appear", path)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "0123456789ab")
	mount(t, old)
	for _, other := range []string{"default", "1-6uoo3vy2xq", "lb_6uoo3vy2x", "ingress_sbox", "cni-1b4e28ba-2fa1-11d2-883f-0016d3cca427", "blue"} {
		mount(t, filepath.Join(dir, other))
	}
	found := watching(t, filepath.Join(dir, "nowhere"), dir)
	want(t, found, old)

	// A file alone is none, nor one that goes again.
	first, second := filepath.Join(dir, "aaaaaaaaaaaa"), filepath.Join(dir, "bbbbbbbbbbbb")
	touch(t, first)
	touch(t, second)
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	mount(t, second)
	want(t, found, second)
	for _, name := range []string{"cccccccccccc", "netns-1b4e28ba-2fa1-11d2-883f-0016d3cca427"} {
		path := filepath.Join(dir, name)
		mount(t, path)
		want(t, found, path)
	}
}

func TestMountThatComesLate(t *testing.T) {
	dir := t.TempDir()
	w, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	path := filepath.Join(dir, "aaaaaaaaaaaa")
	touch(t, path)
	w.await("aaaaaaaaaaaa")
	var found []string
	look := func() time.Time { return w.look(func(path string, _ bool) { found = append(found, path) }) }
	if next := look(); next.IsZero() || time.Until(next) > firstLook {
		t.Errorf("next look %v from now, want within %v", time.Until(next), firstLook)
	}
	mount(t, path)
	w.waiting["aaaaaaaaaaaa"].next = time.Time{}
	if next := look(); !next.IsZero() || !slices.Equal(found, []string{path}) {
		t.Errorf("found %v, next look %v; want the mount and no more looks", found, next)
	}

	// What never becomes a namespace is let go of.
	touch(t, filepath.Join(dir, "bbbbbbbbbbbb"))
	w.await("bbbbbbbbbbbb")
	v := w.waiting["bbbbbbbbbbbb"]
	for range 20 {
		v.next = time.Time{}
		look()
	}
	if v.pauses.Next() != lastLook {
		t.Errorf("looks are %v apart in the end, want %v", v.pauses.Next(), lastLook)
	}
	v.next, v.end = time.Time{}, time.Now().Add(-time.Second)
	if next := look(); !next.IsZero() || len(w.waiting) > 0 {
		t.Errorf("after its time it is still waited for: next look %v", next)
	}
}

// The engine makes the folder for its first container, which starts a moment later.
func TestFolderThatComesAndGoes(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "docker")
	dir := filepath.Join(parent, "netns")
	found := watchingEvery(t, time.Hour, filepath.Join(t.TempDir(), "nowhere", "netns"), dir)
	path := filepath.Join(dir, "aaaaaaaaaaaa")
	for range 2 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		mount(t, path)
		want(t, found, path)
		if err := os.RemoveAll(parent); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQueueOverflowIsListed(t *testing.T) {
	dir := t.TempDir()
	w, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	// IN_Q_OVERFLOW is 0x4000; the watch descriptor is -1 and there is no name.
	overflow := []byte{0xff, 0xff, 0xff, 0xff, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	mount(t, filepath.Join(dir, "aaaaaaaaaaaa"))
	if there, err := w.take(overflow); err != nil || !there || w.waiting["aaaaaaaaaaaa"] == nil {
		t.Errorf("take: %t, %v, waiting for %v; want what the overflow has swallowed", there, err, w.waiting)
	}
	if _, err := w.take(append(overflow[:12:12], 1, 0, 0, 0)); err == nil {
		t.Error("an event that is longer than what was read: no error")
	}
}

func TestFileInsteadOfFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	touch(t, path)
	if _, err := firstFolder([]string{path}); !isGone(err) {
		t.Errorf("a file for a folder: %v, want it to count as not there", err)
	}
	if _, err := firstFolder([]string{fmt.Sprintf("/proc/%d/nowhere", os.Getpid())}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
