//go:build integration

package preparer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

// The test program is also the process.
const folderVariable = "PREPARER_TEST_FOLDER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(folderVariable); folder != "" {
		if err := Serve(context.Background(), os.NewFile(3, "daemon"), Config{Folders: []string{folder}, First: 61000, Last: 61099}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// appearance is what Appeared was called with.
type appearance struct {
	path string
	made *Made
}

// running is a Preparer that runs until the test ends.
type running struct {
	*Preparer

	t        *testing.T
	folder   string
	appeared chan appearance
	watching chan struct{}
	ended    chan error
	stop     func()
}

func run(t *testing.T, before ...string) *running {
	t.Helper()
	folder := t.TempDir()
	t.Setenv(folderVariable, folder)
	r := &running{
		t: t, folder: folder, appeared: make(chan appearance, 10), watching: make(chan struct{}), ended: make(chan error, 1),
	}
	r.Preparer = &Preparer{
		Command:  append(before, os.Args[0]),
		Appeared: func(path string, made *Made) { r.appeared <- appearance{path, made} },
		Watching: func() { close(r.watching) }, Spent: func() {},
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err, open := <-r.ended; open && err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	return r
}

// watch waits until it watches, for ports to be redirected.
func (r *running) watch(ports ...uint16) {
	r.t.Helper()
	r.Declare(ports)
	select {
	case <-r.watching:
	case err := <-r.ended:
		r.t.Fatalf("it has ended: %v", err)
	}
}

// mount makes the namespace of lab appear, as the engine's mount would, and returns its path.
func (r *running) mount(lab *netlab.Lab, name string) string {
	r.t.Helper()
	path := filepath.Join(r.folder, name)
	if err := lab.NS().WithFD(func(fd int) error {
		return os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), path)
	}); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *running) await(path string) *Made {
	r.t.Helper()
	select {
	case a := <-r.appeared:
		if a.path != path {
			r.t.Fatalf("%s appeared, want %s", a.path, path)
		}
		return a.made
	case <-time.After(20 * time.Second):
		r.t.Fatalf("%s did not appear", path)
	}
	return nil
}

// The engine mounts a namespace before lo is up in there, and what is prepared by then
// serves as soon as it is; what is declared later is added, and in the end nothing is left.
func TestWhatAppearsIsPrepared(t *testing.T) {
	lab := netlab.New(t)
	lab.Run(t, "", "ip", "address", "flush", "dev", "lo")
	lab.Run(t, "", "ip", "link", "set", "lo", "down")
	r := run(t)
	r.watch(7000)
	made := r.await(r.mount(lab, "0123456789ab"))
	if made == nil || made.Rules == nil || len(made.Families()) != 2 {
		t.Fatalf("prepared: %+v; want sockets of both families and rules", made)
	}
	lab.Run(t, "", "ip", "link", "set", "lo", "up")
	for _, f := range made.Families() {
		host := map[netrules.Family]string{netrules.IPv4: "127.0.0.1", netrules.IPv6: "::1"}[f]
		reach(t, lab, made.Listening[f], net.JoinHostPort(host, "7000"))
	}
	if conn, err := lab.NS().DialTCP(t.Context(), netip.MustParseAddrPort("127.0.0.1:7001")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port that is not declared: %v, %v; want it refused", conn, err)
	}
	if err := made.Rules.Update([]netrules.Port{{Number: 7001}}); err != nil {
		t.Fatal(err)
	}
	reach(t, lab, made.Listening[netrules.IPv4], "127.0.0.1:7001")
	if conn, err := lab.NS().DialTCP(t.Context(), netip.MustParseAddrPort("127.0.0.1:7000")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port that is declared no more: %v, %v; want it refused", conn, err)
	}
	made.Close()
	if left := lab.Run(t, "", "nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// reach dials to, and demands that listener has it.
func reach(t *testing.T, lab *netlab.Lab, listener *net.TCPListener, to string) {
	t.Helper()
	client := lab.Dial(t, to)
	if err := listener.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("%s: a connection from %s, want %s", to, conn.RemoteAddr(), client.LocalAddr())
	}
}

// In what is there before it watches somebody may be at work: a daemon before us.
func TestWhatIsThereIsOnlyToldOf(t *testing.T) {
	lab := netlab.New(t)
	r := run(t)
	path := r.mount(lab, "0123456789ab")
	r.watch(7000)
	if made := r.await(path); made != nil {
		made.Close()
		t.Errorf("prepared: %+v; want nothing", made)
	}
}

// More ports than one attribute can name.
func TestManyPorts(t *testing.T) {
	lab := netlab.New(t)
	r := run(t)
	var ports []uint16
	for port := range uint16(2500) {
		ports = append(ports, 10000+port)
	}
	r.watch(ports...)
	made := r.await(r.mount(lab, "0123456789ab"))
	if made == nil || made.Rules == nil {
		t.Fatalf("prepared: %+v; want rules", made)
	}
	defer made.Close()
	reach(t, lab, made.Listening[netrules.IPv4], "127.0.0.1:12499")
}

// One thread has real-time priority, which what it starts would not inherit, and the process
// ends with its daemon.
func TestOneThreadIsUrgent(t *testing.T) {
	r := run(t)
	r.watch()
	process := child(t)
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", process))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %v: %v", threads, err)
	}
	var urgent int
	for _, thread := range threads {
		id, err := strconv.Atoi(filepath.Base(thread))
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if attr.Policy == unix.SCHED_NORMAL {
			continue
		}
		urgent++
		if attr.Policy != unix.SCHED_RR || attr.Priority != 1 || attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
			t.Errorf("a thread has %+v", attr)
		}
	}
	if urgent != 1 {
		t.Errorf("%d threads have real-time priority, want one", urgent)
	}
	began := time.Now()
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	close(r.ended)
	if took := time.Since(began); took >= patience {
		t.Errorf("it had to be killed, after %s", took)
	}
}

// child is the process of the only one that runs.
func child(t *testing.T) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if fields[1] == strconv.Itoa(os.Getpid()) && fields[0] != "Z" {
			id, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
	}
	t.Fatal("there is no process")
	return 0
}

// A process that dies is told of; what it has made stays.
func TestDeathIsToldOf(t *testing.T) {
	lab := netlab.New(t)
	r := run(t)
	r.watch(7000)
	made := r.await(r.mount(lab, "0123456789ab"))
	if made == nil {
		t.Fatal("nothing was prepared")
	}
	defer made.Close()
	if err := unix.Kill(child(t), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-r.ended; err == nil || errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v, want that it was killed", err)
	}
	close(r.ended)
	reach(t, lab, made.Listening[netrules.IPv4], "127.0.0.1:7000")
}

// Without the capability for it, it says so and does nothing.
func TestDenied(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip(err)
	}
	r := run(t, "setpriv", "--inh-caps", "-sys_nice", "--bounding-set", "-sys_nice")
	r.Declare(nil)
	if err := <-r.ended; !errors.Is(err, ErrDenied) {
		t.Errorf("it ended with %v, want %v", err, ErrDenied)
	}
	close(r.ended)
}
