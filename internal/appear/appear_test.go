package appear

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute // far longer than any event takes

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// waiting runs Wait, and returns once it has looked at what is not there.
func waiting(t *testing.T, there func(string) bool, paths ...string) <-chan bool {
	t.Helper()
	looked, result := make(chan struct{}, 1), make(chan bool, 1)
	go func() {
		result <- Wait(t.Context(), patience, func(path string) bool {
			found := there(path)
			select {
			case looked <- struct{}{}:
			default:
			}
			return found
		}, paths...)
	}()
	<-looked
	return result
}

func want(t *testing.T, result <-chan bool) {
	t.Helper()
	select {
	case found := <-result:
		if !found {
			t.Error("it was not found")
		}
	case <-time.After(patience / 6):
		t.Fatal("it was not noticed")
	}
}

func TestFolders(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "docker", "netns")
	for name, appear := range map[string]func() error{
		"made": func() error { return os.MkdirAll(path, 0o700) },
		"renamed": func() error {
			if err := os.MkdirAll(filepath.Join(dir, "elsewhere", "netns"), 0o700); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "docker"))
		},
		"after other files": func() error {
			for _, other := range []string{"a", "b", "netns"} {
				if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
					return err
				}
			}
			return os.MkdirAll(path, 0o700)
		},
		"as a link": func() error {
			if err := os.MkdirAll(filepath.Join(dir, "elsewhere", "netns"), 0o700); err != nil {
				return err
			}
			return os.Symlink("elsewhere", filepath.Join(dir, "docker"))
		},
		"again after its parent was removed": func() error {
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			if err := os.Remove(filepath.Dir(path)); err != nil {
				return err
			}
			return os.MkdirAll(path, 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			result := waiting(t, isFolder, filepath.Join(dir, "nowhere", "netns"), path)
			if err := appear(); err != nil {
				t.Fatal(err)
			}
			want(t, result)
			for _, made := range []string{"docker", "elsewhere", "netns", "a", "b"} {
				if err := os.RemoveAll(filepath.Join(dir, made)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A socket is there before anybody listens.
func TestSocketThatListensLater(t *testing.T) {
	dir, err := os.MkdirTemp("", "appear") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	result := waiting(t, func(path string) bool {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	want(t, result)
}

func TestNothingAppears(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nowhere")
	if Wait(t.Context(), time.Millisecond, isFolder, path) {
		t.Error("it is there")
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan bool)
	go func() { result <- Wait(ctx, patience, isFolder, path) }()
	cancel()
	if <-result {
		t.Error("it is there")
	}
	if !Wait(t.Context(), patience, func(path string) bool { _, err := os.Stat(path); return errors.Is(err, fs.ErrNotExist) }, path) {
		t.Error("what holds at once is not seen")
	}
}
