package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func mustOpen(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOpenRefuses puts in the folder's place what somebody else could have put there.
func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, path string) error
		want    string
		hint    string
	}{
		"a link": {func(_ *testing.T, path string) error {
			return errors.Join(os.Mkdir(path+"-real", 0o700), os.Symlink(path+"-real", path))
		}, "is a link", "-real"},
		"a broken link": {func(_ *testing.T, path string) error { return os.Symlink("/nowhere", path) }, "is a link", "remove it"},
		"a fifo":        {func(_ *testing.T, path string) error { return unix.Mkfifo(path, 0o600) }, "is not a folder", "remove it"},
		"a file":        {func(_ *testing.T, path string) error { return os.WriteFile(path, nil, 0o600) }, "is not a folder", "remove it"},
		"a socket": {func(t *testing.T, path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}, "is not a folder", "remove it"},
		"open to all": {func(_ *testing.T, path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o777))
		}, "mode 0777", "chmod 700"},
		"open to read": {func(_ *testing.T, path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o704))
		}, "mode 0704", "chmod 700"},
		"a parent that all may write": {func(_ *testing.T, path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.Chmod(filepath.Dir(path), 0o777))
		}, "may be changed by others", "chmod go-w"},
		"another's": {func(t *testing.T, path string) error {
			if os.Geteuid() != 0 {
				return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o777)) // nobody else to give it to
			}
			return errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 65534, 65534))
		}, map[bool]string{true: "belongs to user 65534", false: "mode 0777"}[os.Geteuid() == 0], ""},
		"another's parent": {func(t *testing.T, path string) error {
			if os.Geteuid() != 0 {
				return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o777))
			}
			return errors.Join(os.Mkdir(path, 0o700), os.Chown(filepath.Dir(path), 65534, 65534))
		}, map[bool]string{true: "who could replace", false: "mode 0777"}[os.Geteuid() == 0], ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "run")
			if err := c.prepare(t, path); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(hint.Of(err), c.hint) || hint.Of(err) == "" {
				t.Errorf("Open: %v (hint %q); want %q and the hint %q", err, hint.Of(err), c.want, c.hint)
			}
		})
	}
}

func TestOpenMakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "run")
	if _, err := Find(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find: %v; want that there is none", err)
	}
	d := mustOpen(t, path)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("it is %v, %v; want 0700", st.Mode(), err)
	}
	// It is checked again at each use.
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Take("x.lock"); err == nil || !strings.Contains(err.Error(), "mode 0755") {
		t.Errorf("Take in a folder that was opened to all: %v", err)
	}
	for _, wrong := range []string{"relative", "/"} {
		if _, err := Open(wrong); err == nil || hint.Of(err) == "" {
			t.Errorf("Open(%q): %v; want an error with a hint", wrong, err)
		}
	}
	// /tmp is everybody's, and sticky.
	tmp, err := os.MkdirTemp("/tmp", "rundir-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	mustOpen(t, filepath.Join(tmp, "run"))
}

func TestLock(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	l, err := d.Take(d.HostLock())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Take(d.HostLock()); !errors.Is(err, ErrHeld) {
		t.Errorf("a second Take: %v; want ErrHeld", err)
	}
	if n, err := d.Hosts(); n != 1 || err != nil {
		t.Errorf("Hosts = %d, %v; want 1", n, err)
	}
	// A descriptor that another process receives holds it, too.
	fd, err := unix.FcntlInt(l.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "handed over")
	if _, ok := d.Adopt("another.lock", file); ok {
		t.Error("Adopt took it for another lock")
	}
	next, ok := d.Adopt(d.HostLock(), file)
	if !ok {
		t.Fatal("Adopt did not know it")
	}
	l.Leave()
	if !d.Held(d.HostLock()) {
		t.Error("it is nobody's, although it was handed over")
	}
	next.Release()
	if d.Held(d.HostLock()) {
		t.Error("it is held after Release")
	}
	if entries, err := os.ReadDir(d.String()); len(entries) != 0 || err != nil {
		t.Errorf("left are %v, %v", entries, err)
	}
}

// TestStaleFilesAreNobodys: a file without a lock is what a killed process leaves.
func TestStaleFilesAreNobodys(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	mark, err := d.Mark()
	if err != nil {
		t.Fatal(err)
	}
	stale := d.name("draining", "1-x") + ".lock"
	if err := os.WriteFile(d.Path(stale), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := Dir{path: d.path, ns: d.ns}
	elsewhere.ns.Inode++
	if n, err := elsewhere.Marks(); n != 0 || err != nil {
		t.Errorf("in another network namespace are %d marks, %v; want none", n, err)
	}
	if n, err := d.Marks(); n != 1 || err != nil {
		t.Errorf("Marks = %d, %v; want 1", n, err)
	}
	if _, err := os.Stat(d.Path(stale)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale mark is still there: %v", err)
	}
	mark.Release()
	if n, err := d.Marks(); n != 0 || err != nil {
		t.Errorf("Marks = %d, %v after the end; want none", n, err)
	}
}

// TestLockRefusesWhatIsNoFile has things in a lock file's place that would hold us up.
func TestLockRefusesWhatIsNoFile(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	for name, put := range map[string]func(path string) error{
		"fifo.lock":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link.lock":   func(path string) error { return os.Symlink("/etc/passwd", path) },
		"folder.lock": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		if err := put(d.Path(name)); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Take(name); err == nil || errors.Is(err, ErrHeld) || hint.Of(err) == "" {
			t.Errorf("Take of %s: %v (hint %q); want what is wrong and what to do", name, err, hint.Of(err))
		}
	}
}

// TestOneOfManyGetsTheLock has many take and release it at once: never two have it.
func TestOneOfManyGetsTheLock(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	var having, taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				l, err := d.Take("x.lock")
				if errors.Is(err, ErrHeld) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if now := having.Add(1); now != 1 {
					t.Errorf("%d have it", now)
				}
				taken.Add(1)
				having.Add(-1)
				l.Release()
			}
		})
	}
	wg.Wait()
	if taken.Load() == 0 {
		t.Error("nobody got it")
	}
}

func TestNamesHaveTheNamespace(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	id := fmt.Sprintf("-%d-%d", d.ns.Dev, d.ns.Inode)
	for _, name := range []string{d.HostLock(), d.Socket(""), d.Socket(":6379"), d.Socket("[::1]:6379")} {
		if !strings.Contains(name, id) || strings.Contains(name, "/") {
			t.Errorf("%q lacks %s", name, id)
		}
	}
}
