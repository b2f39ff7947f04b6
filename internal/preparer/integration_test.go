//go:build integration

package preparer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	why      error // of watching
	lost     chan error
	ended    chan error
	stop     func()
}

func run(t *testing.T, before ...string) *running {
	t.Helper()
	free := make(chan struct{})
	close(free)
	return runHeld(t, free, before...)
}

// runHeld is run for who tells nobody of what has appeared until held is closed.
func runHeld(t *testing.T, held <-chan struct{}, before ...string) *running {
	t.Helper()
	folder := t.TempDir()
	t.Setenv(folderVariable, folder)
	r := &running{
		t: t, folder: folder, appeared: make(chan appearance, 10), watching: make(chan struct{}), lost: make(chan error, 10), ended: make(chan error, 1),
	}
	r.Preparer = &Preparer{
		Command:  append(before, os.Args[0]),
		Appeared: func(path string, made *Made) { <-held; r.appeared <- appearance{path, made} },
		Watching: func(why error) { r.why = why; close(r.watching) }, Spent: func() {}, Lost: func(err error) { r.lost <- err },
		Unprepared: func(path string, err error) { t.Logf("%s was not prepared: %v", path, err) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err, open := <-r.ended; open && err != nil {
			t.Errorf("it ended with %v", err)
		}
		r.Wait()
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
	r := run(t, "setpriv", "--inh-caps", "-sys_nice", "--bounding-set", "-sys_nice")
	r.Declare(nil)
	if err := <-r.ended; !errors.Is(err, ErrDenied) {
		t.Errorf("it ended with %v, want %v", err, ErrDenied)
	}
	close(r.ended)
}

// Two daemons' processes watch during a takeover: one of them prepares a namespace, and the
// other leaves it alone.
func TestOneOfTwoPrepares(t *testing.T) {
	lab := netlab.New(t)
	one := run(t)
	one.watch(7000)
	two := run(t)
	if err := os.Remove(two.folder); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(one.folder, two.folder); err != nil {
		t.Fatal(err)
	}
	two.watch(7000)
	path := one.mount(lab, "0123456789ab")
	first, second := one.await(path), two.await(filepath.Join(two.folder, "0123456789ab"))
	if (first == nil) == (second == nil) {
		t.Fatalf("prepared: %+v and %+v; want one of them", first, second)
	}
	made := cmp.Or(first, second)
	defer made.Close()
	reach(t, lab, made.Listening[netrules.IPv4], "127.0.0.1:7000")
}

// What it has made by the time that it is to end it tells of.
func TestLastWords(t *testing.T) {
	labs := []*netlab.Lab{netlab.New(t), netlab.New(t)}
	held := make(chan struct{})
	r := runHeld(t, held)
	r.watch(7000)
	for i, lab := range labs {
		r.mount(lab, fmt.Sprintf("0123456789a%d", i))
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(labs[1].Run(t, "", "nft", "list", "ruleset"), "7000"); {
		if time.Now().After(deadline) {
			t.Fatal("the second one is not prepared")
		}
	}
	stat := fmt.Sprintf("/proc/%d/stat", child(t))
	r.stop()
	for deadline := time.Now().Add(20 * time.Second); ; { // until it has ended, and is a zombie
		if text, err := os.ReadFile(stat); err != nil || strings.Contains(string(text), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not end")
		}
	}
	close(held)
	for i := range labs {
		made := r.await(filepath.Join(r.folder, fmt.Sprintf("0123456789a%d", i)))
		if made == nil {
			t.Fatal("nothing was prepared")
		}
		made.Close()
	}
}

// Where no descriptor is free, what was prepared is given up, and that is told of.
func TestNoDescriptorIsFree(t *testing.T) {
	lab := netlab.New(t)
	r := run(t)
	r.watch(7000)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }()
	free, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) // the least that is free
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(free)
	path := r.mount(lab, "0123456789aa")
	if made := r.await(path); made == nil {
		t.Fatal("nothing was prepared")
	} else {
		made.Close()
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free) + 1, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	path = r.mount(lab, "0123456789ab")
	made := r.await(path)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if made != nil {
		t.Errorf("prepared: %+v; want nothing", made)
	}
	select {
	case err := <-r.lost:
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("lost by %v, want %v", err, unix.EMFILE)
		}
	default:
		t.Error("nobody was told")
	}
	if left := lab.Run(t, "", "nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// One that hangs is not waited for.
func TestOneThatHangs(t *testing.T) {
	r := run(t)
	r.watch()
	if err := unix.Kill(child(t), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for port := range uint16(20000) { // more than there is room for
		r.Declare([]uint16{port})
	}
	if took := time.Since(began); took >= patience {
		t.Errorf("it was waited for, %s", took)
	}
	if err := <-r.ended; err == nil || errors.Is(err, ErrDenied) {
		t.Errorf("it ended with %v", err)
	}
	close(r.ended)
}
