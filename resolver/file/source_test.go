package file_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/file"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func queryFor(path string) resolver.Query {
	return resolver.Query{Scheme: file.Scheme, Path: strings.TrimPrefix(path, "/")}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace writes a file beside path and renames it over.
func replace(t testing.TB, path, content string) {
	t.Helper()
	next := path + ".next"
	write(t, next, content)
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// memoryDir is a folder in memory: a disk would be written to ten thousand times.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ambassadord")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func lines(endpoints ...string) string {
	return "# endpoints\n" + strings.Join(endpoints, "\n") + "\n"
}

// TestConformance runs the suite for each way in which a file is changed.
func TestConformance(t *testing.T) {
	for name, change := range map[string]func(t testing.TB, path, content string){
		"written in place": write,
		"renamed over":     replace,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(memoryDir(t), "redis.list")
			write(t, path, lines("10.0.0.1:6379", "redis.test:6379"))
			sourcetest.Run(t, sourcetest.Case{
				New:         func(testing.TB) (resolver.Source, func()) { return file.Source{}, nil },
				Query:       queryFor(path),
				Want:        []string{"10.0.0.1:6379", "redis.test:6379"},
				Change:      func(t testing.TB) { change(t, path, lines("10.0.0.2:6379 3")) },
				WantChanged: []string{"10.0.0.2:6379"},
				Control: sourcetest.Control{
					Set:   func(t testing.TB, endpoints ...string) { change(t, path, lines(endpoints...)) },
					Port:  6379,
					Break: func(t testing.TB) { change(t, path, "10.0.0.1:6379\n10.0.0.2\n") },
					Mend:  func(t testing.TB) { change(t, path, lines()) },
				},
			})
		})
	}
}

// TestConfigMap swaps a link as Kubernetes does: the file is a link into ..data,
// which is a link to a folder that is made anew.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	version := 0
	swap := func(content string) {
		t.Helper()
		version++
		folder := filepath.Join(dir, fmt.Sprintf("..version-%d", version))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "redis.list"), content)
		next := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(folder, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("10.0.0.1:80\n")
	path := filepath.Join(dir, "redis.list")
	if err := os.Symlink("..data/redis.list", path); err != nil {
		t.Fatal(err)
	}
	w := sourcetest.Watch(t, file.Source{}, queryFor(path))
	w.Await(t, "10.0.0.1:80")
	for i := range 5 {
		endpoint := fmt.Sprintf("10.0.1.%d:80", i)
		swap(endpoint + "\n")
		w.Await(t, endpoint)
	}
	w.Stop(t)
}

// A mistake keeps the answer and says where it is, once; so does a file that is
// taken away.
func TestMistakeKeepsTheLastAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "redis.list")
	write(t, path, "10.0.0.1:80\n")
	w := sourcetest.Watch(t, file.Source{}, queryFor(path))
	w.Await(t, "10.0.0.1:80")

	replace(t, path, "10.0.0.1:80\n10.0.0.2:http\n")
	a := w.Next(t)
	line, ok := errors.AsType[*file.LineError](a.Err)
	if !ok || line.Line != 2 || line.Column != 10 || hint.Of(a.Err) == "" {
		t.Fatalf("answer %+v; want the mistake in line 2, column 10, with a hint", a)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if a := w.Next(t); !errors.Is(a.Err, os.ErrNotExist) || hint.Of(a.Err) == "" {
		t.Fatalf("answer %+v; want that the file is gone, with a hint", a)
	}
	replace(t, path, "10.0.0.1:80\n") // the same as before: the failure is over all the same
	w.Await(t, "10.0.0.1:80")
	replace(t, path, "# a comment more changes nothing\n10.0.0.1:80\n")
	replace(t, path, "10.0.0.3:80 0\nredis.test:81 65535\n")
	a = w.Next(t)
	if got := sourcetest.Endpoints(a); len(got) != 2 || a.Endpoints[0].Weight != 0 || a.Endpoints[1].Weight != 65535 {
		t.Errorf("answer %+v; want two endpoints with their weights, and no answer before it", a)
	}
	w.Stop(t)
}

func TestCheckRefuses(t *testing.T) {
	for what, q := range map[string]resolver.Query{
		"a host":     {Scheme: file.Scheme, Host: "etc", Path: "redis.list"},
		"no path":    {Scheme: file.Scheme},
		"parameters": {Scheme: file.Scheme, Path: "etc/redis.list", Params: "a=b"},
	} {
		if err := (file.Source{}).Check(q); err == nil || hint.Of(err) == "" {
			t.Errorf("%s: %v; want an error with a hint", what, err)
		}
		if err := (file.Source{}).Watch(t.Context(), q, func(resolver.Answer) {}); err == nil {
			t.Errorf("%s: Watch accepted it", what)
		}
	}
}
