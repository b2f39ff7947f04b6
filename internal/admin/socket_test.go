package admin

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// asOtherUser has the test program dial that path.
const asOtherUser = "ADMIN_TEST_DIAL"

func dialAsOther(path string) int {
	conn, err := net.Dial("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 0
	}
	defer conn.Close()
	if route := os.Getenv(asOtherUserAsk); route != "" {
		askAsOther(conn, route)
		return 0
	}
	fmt.Fprintln(os.Stdout, "dialled")
	return 0
}

// mine lets place make a socket at path, and ends it with the test.
func mine(t *testing.T, path string, predecessor func(int) bool) *placed {
	t.Helper()
	p, err := place(path, "", predecessor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.listener.Close() })
	return p
}

// alone fails unless the folder of path has nothing but path.
func alone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("beside the socket are %v (%v)", entries, err)
	}
}

// TestSocketOfAKilledProcess is replaced; that of a living one is not, unless it is our predecessor, and
// an old daemon that ends leaves its successor's alone.
func TestSocketOfAKilledProcess(t *testing.T) {
	path := configured(t).Path
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	old := mine(t, path, nil)
	alone(t, path)
	if _, err := place(path, "", nil); err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(hint.Of(err), "--admin=") {
		t.Errorf("another daemon's: %v (%s)", err, hint.Of(err))
	}
	if _, err := place(path, "", func(pid int) bool { return pid != os.Getpid() }); err == nil {
		t.Error("a socket of another than the predecessor's was replaced")
	}
	next := mine(t, path, func(pid int) bool { return pid == os.Getpid() })
	alone(t, path)
	old.remove()
	if st, err := os.Lstat(path); err != nil || !os.SameFile(st, next.file) {
		t.Errorf("after the old daemon's end there is %v, %v", st, err)
	}
	next.remove()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after the end: %v", err)
	}
}

// TestReplacingLeavesNoGap dials all the while that sockets take each other's place.
func TestReplacingLeavesNoGap(t *testing.T) {
	path := configured(t).Path
	mine(t, path, nil)
	done, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-done:
				failed <- nil
				return
			default:
			}
			conn, err := net.Dial("unix", path)
			if err != nil {
				failed <- err
				return
			}
			conn.Close()
		}
	}()
	for range 50 {
		mine(t, path, func(int) bool { return true })
	}
	close(done)
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

func TestWhatIsAtThePathStays(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"link":      func(path string) error { return os.Symlink("elsewhere", path) },
		"no socket": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		path := configured(t).Path
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		_, err := place(path, "", func(int) bool { return true })
		if err == nil || !strings.Contains(err.Error(), name) || hint.Of(err) == "" {
			t.Errorf("%s: %v (%s)", name, err, hint.Of(err))
		}
		alone(t, path)
	}
}

func TestPlacesThatAreRefused(t *testing.T) {
	folder := filepath.Dir(configured(t).Path)
	open := filepath.Join(folder, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(open, "a.sock"):                       "changed by others",
		filepath.Join(folder, strings.Repeat("long", 30)):   "longer than a socket's may be",
		filepath.Join("/proc/self/nowhere", "a.sock"):       "",
		filepath.Join(folder, "new", "folder", "deep.sock"): "none",
	} {
		p, err := place(path, "", nil)
		if want == "none" {
			if err != nil {
				t.Error(err)
			} else {
				p.listener.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want: %s", path, err, want)
		}
	}
	if _, err := New(Config{Path: "/x", Group: "no-such-group"}); err == nil || hint.Of(err) == "" {
		t.Errorf("a group that there is not: %v", err)
	}
}

// TestOnlyTheGroupMayDial looks at the socket's mode, and dials as another user: one of the group, and
// one that is not. That takes root.
func TestOnlyTheGroupMayDial(t *testing.T) {
	c := configured(t)
	if os.Geteuid() == 0 {
		c.Group = "65533"
	}
	started(t, c)
	st, err := os.Lstat(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("the socket's mode is %s; want that of its user and group alone", st.Mode())
	}
	if os.Geteuid() != 0 {
		t.Log("only root can be two users")
		return
	}
	if gid := st.Sys().(*syscall.Stat_t).Gid; gid != 65533 {
		t.Errorf("the socket's group is %d", gid)
	}
	if err := os.Chmod(filepath.Dir(c.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.Open("/proc/self/exe") // by a descriptor, for the path may be closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for gid, want := range map[uint32]string{65533: "dialled", 65534: "permission denied"} {
		cmd := exec.Command("/proc/self/fd/3")
		cmd.ExtraFiles, cmd.Dir = []*os.File{program}, "/"
		cmd.Env = []string{asOtherUser + "=" + c.Path, "GORACE=atexit_sleep_ms=0"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: gid}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("a user of group %d: %s (%v); want: %s", gid, out, err, want)
		}
	}
	if answer := ask(t, over(t, c.Path), http.MethodGet, "http://localhost/healthz"); answer.code != http.StatusOK {
		t.Errorf("root: %+v", answer)
	}
}
