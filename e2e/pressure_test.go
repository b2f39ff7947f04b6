//go:build integration

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// forwarder is the daemon as it is shipped, forwarding one port, with no engine.
type forwarder struct {
	*daemon
	t    *testing.T
	addr string
	base map[string]int // descriptors before the first connection
}

// forward starts one for a target. before are the words of a command to run it by.
func forward(t *testing.T, target string, before ...string) *forwarder {
	t.Helper()
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	addr := freeAddrs(t, 1)[0]
	words := append(slices.Clone(before), path, "run", "--log-format", "json", addr+"="+target)
	d := launch(t, exec.Command(words[0], words[1:]...), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	f := &forwarder{daemon: d, t: t, addr: addr}
	f.ask() // what is made for the first connection is not of interest
	d.wait("the first connection's end", 20*time.Second, func(l line) bool { return l.str("msg") == "connection" })
	f.base = f.descriptors()
	return f
}

// dial opens a connection that is closed with the test.
func (f *forwarder) dial() *net.TCPConn {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(connPatience)); err != nil {
		f.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// ask opens a connection for one echo, and returns how long that took.
func (f *forwarder) ask() time.Duration {
	f.t.Helper()
	began := time.Now()
	conn := f.dial()
	defer conn.Close()
	if err := pingPong(conn); err != nil {
		f.t.Fatal(err)
	}
	return time.Since(began)
}

// descriptors counts what the daemon has open, by kind: "socket", "pipe", and so on.
func (f *forwarder) descriptors() map[string]int {
	f.t.Helper()
	return f.descriptorsOf(f.cmd.Process.Pid)
}

func (f *forwarder) descriptorsOf(pid int) map[string]int {
	f.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, e := range entries {
		if name, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			kind, _, _ := strings.Cut(name, ":")
			kinds[kind]++
		}
	}
	return kinds
}

// keeper is the process that outlives the daemon. It is started when the first connection is
// a second old, which thousands of them may be made in.
func (f *forwarder) keeper() (process int) {
	f.t.Helper()
	return childOf(f.t, f.cmd.Process.Pid, "keeper")
}

// childOf is the process of the daemon's that was started by that command, once it is there.
func childOf(t *testing.T, daemon int, command string) (process int) {
	t.Helper()
	poll(t, 20*time.Second, "the daemon has its "+command, func() error {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", daemon))
		if err != nil {
			return err
		}
		for _, list := range lists {
			text, _ := os.ReadFile(list) // the thread may have ended
			for child := range strings.FieldsSeq(string(text)) {
				line, _ := os.ReadFile("/proc/" + child + "/cmdline")
				if strings.Contains(string(line), "\x00"+command+"\x00") {
					process, err = strconv.Atoi(child)
					return err
				}
			}
		}
		return errors.New("it has no such child")
	})
	return process
}

// kernelBefore reports whether the kernel is older than that version.
func kernelBefore(t *testing.T, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var x, y int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &x, &y); err != nil {
		t.Fatal(err)
	}
	return x < major || x == major && y < minor
}

// keptPipes is how many descriptors the daemon may keep for pipes of no connection.
const keptPipes = 2 * 32

// keeperSocket leads to the keeper, from the first connection that lasts a second on.
const keeperSocket = 1

// recovers waits until the daemon holds what it held before the first connection.
func (f *forwarder) recovers() {
	f.t.Helper()
	var now map[string]int
	poll(f.t, 40*time.Second, "the descriptors are back", func() error {
		now = f.descriptors()
		if now["socket"] > f.base["socket"]+keeperSocket || now["pipe"] > f.base["pipe"]+keptPipes {
			return fmt.Errorf("%v, %v before", now, f.base)
		}
		return nil
	})
	f.t.Logf("descriptors afterwards %v, before %v", now, f.base)
}

func (f *forwarder) residentKiB() int {
	f.t.Helper()
	return residentKiB(f.t, f.cmd.Process.Pid)
}

// busy is the processor time that the daemon has used (proc_pid_stat(5)).
func (f *forwarder) busy() time.Duration {
	f.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.cmd.Process.Pid))
	if err != nil {
		f.t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			f.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// latency is the median of echoes over one connection.
func (f *forwarder) latency() time.Duration {
	f.t.Helper()
	conn := f.dial()
	defer conn.Close()
	var took []time.Duration
	for range 301 {
		began := time.Now()
		if err := pingPong(conn); err != nil {
			f.t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// smallEcho is an echo that takes no pipe and little memory: the test's own
// descriptors are bounded, too.
func smallEcho(conn *net.TCPConn) {
	var b [64]byte
	for {
		n, err := conn.Read(b[:])
		if err != nil {
			return
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return
		}
	}
}

// TestManyIdleConnections holds 9,000 connections that have been used and now wait.
func TestManyIdleConnections(t *testing.T) {
	const count, dialers, mostKiB = 9000, 64, 40
	f := forward(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", smallEcho))
	before := f.residentKiB()
	conns := make([]net.Conn, count)
	var next atomic.Int64
	var dialling sync.WaitGroup
	for range dialers {
		dialling.Go(func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				conn, err := net.Dial("tcp", f.addr)
				if err == nil {
					conns[i] = conn
					_ = conn.SetDeadline(time.Now().Add(time.Minute))
					err = pingPong(conn.(*net.TCPConn))
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
			}
		})
	}
	dialling.Wait()
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	}()
	if t.Failed() {
		return
	}
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 0, 0, 0) // invalid where it is allowed
	keeper, ringWorks := f.keeper(), !kernelBefore(t, 6, 8) && errno != unix.EPERM && errno != unix.ENOSYS
	poll(t, 20*time.Second, "the keeper has them all", func() error {
		held := f.descriptorsOf(keeper)
		if ringWorks && held["anon_inode"] >= count/1024 && held["socket"] <= keeperSocket || !ringWorks && held["socket"] >= 2*count {
			return nil
		}
		return fmt.Errorf("it has the descriptors %v; want rings for %d connections, or two for each where io_uring is not allowed or Linux is older than 6.8", held, count)
	})
	// What is on its way to the keeper is there twice for a moment.
	var now map[string]int
	poll(t, 20*time.Second, "two sockets for each connection", func() error {
		now = f.descriptors()
		if sockets := now["socket"] - f.base["socket"]; sockets < 2*count || sockets > 2*count+keeperSocket {
			return fmt.Errorf("%d sockets for %d connections", sockets, count)
		}
		return nil
	})
	if pipes := now["pipe"] - f.base["pipe"]; pipes > keptPipes {
		t.Errorf("%d descriptors of pipes for %d idle connections, want %d at most", pipes, count, keptPipes)
	}
	each := float64(f.residentKiB()-before) / count
	t.Logf("%.1f KiB of the daemon's memory for each of %d idle connections; one more takes %s", each, count, f.ask())
	if each > mostKiB {
		t.Errorf("%.1f KiB for each connection, want %d at most", each, mostKiB)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	f.recovers()
	f.ask()
}

// TestOutOfDescriptors has more clients come than there are descriptors for. What lives
// goes on, nothing spins, and when there are some again so is service.
func TestOutOfDescriptors(t *testing.T) {
	const limit, clients = 256, 600
	t.Run("as the daemon knows", func(t *testing.T) {
		f := forward(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo), "prlimit", "--nofile="+strconv.Itoa(limit))
		f.outOfDescriptors(clients)
	})
	t.Run("as it does not know", func(t *testing.T) {
		f := forward(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo), "prlimit", "--nofile=4096")
		// As if others of the process had them.
		lower := unix.Rlimit{Cur: 64, Max: 64}
		if err := unix.Prlimit(f.cmd.Process.Pid, unix.RLIMIT_NOFILE, &lower, nil); err != nil {
			t.Fatal(err)
		}
		f.outOfDescriptors(clients)
	})
}

func (f *forwarder) outOfDescriptors(clients int) {
	t := f.t
	old := f.dial()
	if err := pingPong(old); err != nil {
		t.Fatal(err)
	}
	var hogs []net.Conn
	for range clients { // the kernel completes those that nobody accepts
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			continue // reset at once
		}
		defer conn.Close()
		hogs = append(hogs, conn)
	}
	const during = time.Second
	before := f.busy()
	for until := time.Now().Add(during); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if err := pingPong(old); err != nil {
			t.Fatalf("a connection from before: %v", err)
		}
	}
	used, open := f.busy()-before, 0
	for _, n := range f.descriptors() {
		open += n
	}
	t.Logf("with %d descriptors in use and %d clients the daemon used %s of the processor in %s", open, len(hogs), used, during)
	if used > during/3 {
		t.Errorf("out of descriptors the daemon used %s of the processor in %s", used, during)
	}
	for _, conn := range hogs {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	poll(t, 10*time.Second, "new connections are served", func() error {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(connPatience))
		return pingPong(conn.(*net.TCPConn))
	})
	if err := pingPong(old); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	_ = old.Close()
	f.recovers()
}

// flood is an endpoint that sends for ever whatever comes, and says at the first byte
// that comes which kind of connection this is: 'e' is an echo.
func flood(conn *net.TCPConn) {
	kind := make([]byte, 1)
	if _, err := io.ReadFull(conn, kind); err != nil {
		return
	}
	switch kind[0] {
	case 'f': // floods
		for block := make([]byte, 64<<10); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	case 'd': // reads nothing
		_, _ = conn.Read(nil)
		var one [1]byte
		for {
			if _, err := conn.Write(one[:]); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond) // to notice its end, without reading
		}
	default: // the echo of pingPong
		if _, err := conn.Write(kind); err == nil {
			echo(conn)
		}
	}
}

// slow opens count connections of either slow kind and leaves them blocked. The
// bytes that are on their way are the kernel's; stop resets all.
func (f *forwarder) slow(kind byte, count int) (stop func()) {
	f.t.Helper()
	var conns []*net.TCPConn
	var writing sync.WaitGroup
	for range count {
		conn := f.dial()
		conns = append(conns, conn)
		if _, err := conn.Write([]byte{kind}); err != nil {
			f.t.Fatal(err)
		}
		if kind != 'd' {
			continue
		}
		writing.Go(func() {
			for block := make([]byte, 64<<10); ; {
				if _, err := conn.Write(block); err != nil {
					return
				}
			}
		})
	}
	return func() {
		for _, conn := range conns {
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
		writing.Wait()
	}
}

// TestSlowPeersAffectNobody compares the latency of a healthy connection alone and
// beside clients and endpoints that take nothing, and beside slowloris clients.
func TestSlowPeersAffectNobody(t *testing.T) {
	f := forward(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", flood))
	alone := f.latency()
	memory := f.residentKiB()
	within := func(what string) {
		t.Helper()
		beside := f.latency()
		t.Logf("beside %s an echo takes %s, alone %s; the daemon has %d KiB, %d before", what, beside, alone, f.residentKiB(), memory)
		if most := 5*alone + 5*time.Millisecond; beside > most {
			t.Errorf("beside %s an echo takes %s, alone %s: more than %s", what, beside, alone, most)
		}
		if grown := f.residentKiB() - memory; grown > 64<<10 {
			t.Errorf("beside %s the daemon has grown by %d KiB", what, grown)
		}
	}
	for _, peers := range []struct {
		what string
		kind byte
	}{{"100 clients that read nothing", 'f'}, {"100 endpoints that read nothing", 'd'}} {
		stop := f.slow(peers.kind, 100)
		within(peers.what)
		stop()
		f.recovers()
	}

	var slowloris sync.WaitGroup
	ending := make(chan struct{})
	for range 100 {
		conn := f.dial()
		slowloris.Go(func() {
			defer conn.Close()
			for tick := time.NewTicker(20 * time.Millisecond); ; {
				select {
				case <-ending:
					tick.Stop()
					return
				case <-tick.C:
				}
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Errorf("a slowloris client: %v", err)
					return
				}
			}
		})
	}
	within("100 slowloris clients")
	close(ending)
	slowloris.Wait()
	f.recovers()
}

// TestMemoryPressure has the daemon carry far more than it may keep.
func TestMemoryPressure(t *testing.T) {
	const limit = 64 << 20
	group := memoryGroup(t, limit)
	f := forward(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", flood),
		"sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, group)
	var stops []func()
	for _, kind := range []byte{'f', 'd'} {
		stops = append(stops, f.slow(kind, 200))
	}
	for range 20 {
		f.ask()
	}
	t.Logf("beside 400 blocked connections, limited to %d KiB, the daemon has %d KiB", limit>>10, f.residentKiB())
	for _, stop := range stops {
		stop()
	}
	f.ask()
	f.recovers()
	if kills := killsIn(t, group); kills != "0" {
		t.Errorf("the kernel killed %s processes for want of memory", kills)
	}
}

// memoryGroup makes a cgroup that may use limit bytes, of whichever version the
// machine has.
func memoryGroup(t *testing.T, limit int) (dir string) {
	t.Helper()
	root, file := "/sys/fs/cgroup", "memory.max"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root, file = root+"/memory", "memory.limit_in_bytes"
	} else if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		t.Fatalf("let cgroups below the root limit memory: %v", err)
	}
	dir = fmt.Sprintf("%s/ambassadord-test-%d", root, os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before that, the daemon ends
		poll(t, 10*time.Second, "the cgroup is empty", func() error { return os.Remove(dir) })
	})
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

// killsIn is how many processes of a cgroup the kernel has killed.
func killsIn(t *testing.T, dir string) string {
	t.Helper()
	for _, file := range []string{"memory.events", "memory.oom_control"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(l), "oom_kill "); ok {
				return n
			}
		}
	}
	t.Fatal("no count of kills")
	return ""
}

// TestResetsLeaveNothing has clients reset at each step of their way.
func TestResetsLeaveNothing(t *testing.T) {
	const each = 200
	f := forward(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", flood))
	for _, step := range []struct {
		name string
		do   func(conn *net.TCPConn) error
	}{
		{"before it is accepted", func(*net.TCPConn) error { return nil }},
		{"with a question on its way", func(conn *net.TCPConn) error {
			_, err := conn.Write([]byte("question"))
			return err
		}},
		{"when answered", pingPong},
		{"while data flows", func(conn *net.TCPConn) error {
			if _, err := conn.Write([]byte{'f'}); err != nil {
				return err
			}
			_, err := io.ReadFull(conn, make([]byte, 100<<10))
			return err
		}},
		{"half-closed", func(conn *net.TCPConn) error {
			if err := pingPong(conn); err != nil {
				return err
			}
			return conn.CloseWrite()
		}},
	} {
		for range each {
			conn := f.dial()
			if err := step.do(conn); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
		f.recovers()
	}
	f.ask()
}
