package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// handedOver makes a claim whose child is a process that sleeps.
func handedOver(t *testing.T, d *Dir) (*Claim, *exec.Cmd) {
	t.Helper()
	c, err := d.MakeClaim()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), "sleep", "600")
	child.ExtraFiles = []*os.File{c.File()}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	if _, err := c.File().WriteString("mine"); err != nil {
		t.Fatal(err)
	}
	c.HandedOver()
	return c, child
}

// TestClaimEndsWithItsChild: it is there for as long as the process that has it, whoever made
// it, and leaves no file.
func TestClaimEndsWithItsChild(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	c, child := handedOver(t, d)
	want := func(what string, count int, makerLive bool) {
		t.Helper()
		all, others, err := d.Claims()
		if err != nil || len(others) > 0 || len(all) != count {
			t.Fatalf("%s: claims %+v, %v, %v; want %d", what, all, others, err, count)
		}
		for _, one := range all {
			if one.Name != c.Name() || string(one.Text) != "mine" || one.MakerLive != makerLive {
				t.Errorf("%s: %+v; want the text, and that the maker lives: %t", what, one, makerLive)
			}
		}
	}
	want("while both live", 1, true)
	c.Orphan()
	want("when the maker is dead", 1, false)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	want("when the child is dead", 0, false)
	if entries, err := os.ReadDir(d.String()); len(entries) != 0 || err != nil {
		t.Errorf("left are %v, %v", entries, err)
	}
}

// TestClaimsPassOverWhatIsNone has things under such names that nobody of ours has made: each is
// named, holds nobody up, and the claim beside them is read.
func TestClaimsPassOverWhatIsNone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to give a file away")
	}
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	c, _ := handedOver(t, d)
	held := func(path string, size int64, uid int, mode fs.FileMode) error {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		t.Cleanup(func() { file.Close() })
		return errors.Join(file.Truncate(size), file.Chmod(mode), file.Chown(uid, uid), unix.Flock(int(file.Fd()), unix.LOCK_EX))
	}
	for name, one := range map[string]struct {
		put  func(path string) error
		says string
	}{
		"fifo":   {func(path string) error { return unix.Mkfifo(path, 0o600) }, "no plain file"},
		"folder": {func(path string) error { return os.Mkdir(path, 0o700) }, "directory"},
		"link":   {func(path string) error { return os.Symlink("/etc/passwd", path) }, "symbolic links"},
		"device": {func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) }, "no plain file"},
		"large":  {func(path string) error { return held(path, MaxClaim+1, 0, 0o600) }, "bytes"},
		"other":  {func(path string) error { return held(path, 0, 65534, 0o600) }, "user 65534"},
		"open":   {func(path string) error { return held(path, 0, 0, 0o622) }, "others may write"},
	} {
		path := d.Path("carrier-1-2-" + name + ".claim")
		if err := one.put(path); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all, others, err := d.Claims()
		if err != nil || len(all) != 1 || all[0].Name != c.Name() || len(others) != 1 {
			t.Fatalf("%s: %+v, %v, %v; want the one claim, and the other file named", name, all, others, err)
		}
		if !strings.Contains(others[0].Error(), path) || !strings.Contains(others[0].Error(), one.says) || hint.Of(others[0]) == "" {
			t.Errorf("%s: %v (hint %q); want which, that it says %q, and what to do", name, others[0], hint.Of(others[0]), one.says)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClaimsAreBounded: of any number of files only so many are read, and that is said.
func TestClaimsAreBounded(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), "run"))
	for i := range maxClaims + 1 {
		if err := unix.Mkfifo(d.Path(fmt.Sprintf("carrier-1-%d.claim", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, others, err := d.Claims()
	if err != nil || len(all) != 0 || len(others) != maxClaims+1 || !strings.Contains(others[0].Error(), "not all") {
		t.Errorf("%d claims, %d other files, %v; want none, and %d with one line that there are more", len(all), len(others), err, maxClaims+1)
	}
	if _, err := d.ReadClaim("carrier-none.claim"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a claim that is not there: %v", err)
	}
}
