package netns

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpenRefusesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	plain, pipe := filepath.Join(dir, "plain"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		plain:                        ErrNotNamespace,
		pipe:                         ErrNotNamespace, // and opening it does not block
		dir:                          ErrNotNamespace,
		"/proc/self/ns/uts":          ErrNotNamespace, // a namespace, of another kind
		filepath.Join(dir, "absent"): fs.ErrNotExist,
	} {
		if n, err := Open(path); !errors.Is(err, want) {
			t.Errorf("Open(%s) = %v, %v, want %v", path, n, err, want)
		}
	}
}

func TestCurrent(t *testing.T) {
	a, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if a.ID() != b.ID() || a.ID() == (ID{}) {
		t.Errorf("%v and %v are the same namespace", a.ID(), b.ID())
	}
	if b.Path() != "/proc/self/ns/net" {
		t.Errorf("path %s", b.Path())
	}
	for _, n := range []*Namespace{a, b} {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := a.Do(func() error { t.Error("ran inside a closed namespace"); return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
}
