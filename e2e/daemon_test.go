//go:build integration

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the daemon, built once for this test run with the race detector; a
// race that it finds makes it exit with status 66.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ambassadord-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	unlock, err := lockHost()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if binary = os.Getenv("E2E_DAEMON"); binary == "" { // whoever starts tests on several hosts has built it
		binary = filepath.Join(dir, "ambassadord")
		build := exec.Command("go", "build", "-race", "-o", binary, "../cmd/ambassadord")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the daemon:", err)
			os.Exit(1)
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	unlock()
	os.Exit(code)
}

// lockHost waits until no other run of these tests uses this host: one daemon
// serves a host, so two runs would refuse each other's.
func lockHost() (unlock func(), err error) {
	file, err := os.Create(filepath.Join(os.TempDir(), "ambassadord-e2e.lock"))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return func() { file.Close() }, nil
}

// line is one line of the daemon's JSON log.
type line map[string]any

func (l line) str(key string) string {
	s, _ := l[key].(string)
	return s
}

func (l line) num(key string) int64 {
	n, _ := l[key].(float64)
	return int64(n)
}

// daemon is a running ambassadord.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // its Wait's; valid after done

	mu      sync.Mutex
	lines   []line
	raw     bytes.Buffer
	changed chan struct{} // closed at the next line
}

// start runs the daemon with args and waits until it serves. It is stopped, and
// must have exited cleanly, at the end of the test.
func start(t *testing.T, args ...string) *daemon {
	t.Helper()
	return startWith(t, nil, args...)
}

// startWith is start with more environment, KEY=VALUE.
func startWith(t *testing.T, env []string, args ...string) *daemon {
	t.Helper()
	d := launch(t, exec.Command(binary, append(lenient(args), "--log-format", "json")...), env)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

// rules is how the daemons of tests set theirs. Tests that read what iptables prints want it
// to be iptables, which the default may not be (filter.Choose).
// thorough is for before a release, and for whoever looks for what is rare.
var thorough = flag.Bool("thorough", false, "start as many containers as before a release, in tests that start many: two and a half times as many in all")

// times is how often a test does what it repeats: usual, or full with the flag -thorough.
func times(usual, full int) int {
	if *thorough {
		return full
	}
	return usual
}

var rules = flag.String("rules", "", "how daemons set their rules, as --rules says it; none is up to them")

// lenient lets what containers declare reach backends on this host's loopback, and files
// of tests, where a test is not about the policy.
func lenient(args []string) []string {
	if len(args) == 0 || args[0] != "run" {
		return args
	}
	first := []string{"run", "--allow-loopback", "--file-folder", os.TempDir()}
	if *rules != "" && !slices.Contains(args, "--rules") {
		first = append(first, "--rules", *rules)
	}
	return slices.Concat(first, args[1:])
}

// startStrict is start with nothing allowed that is not by default.
func startStrict(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := launch(t, exec.Command(binary, append(args, "--log-format", "json")...), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

// launch runs cmd, whose standard error is the daemon's log.
func launch(t *testing.T, cmd *exec.Cmd, env []string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	// The race detector makes every process sleep for a second at its end.
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=50"), env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		d.read(bufio.NewScanner(stderr))
		d.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		if d.running() {
			d.stop()
		}
		if t.Failed() {
			d.mu.Lock()
			defer d.mu.Unlock()
			t.Logf("log of %s:\n%s", strings.Join(cmd.Args, " "), d.raw.String())
		}
	})
	return d
}

func (d *daemon) read(s *bufio.Scanner) {
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		l := line{}
		parsed := json.Unmarshal(s.Bytes(), &l) == nil
		d.mu.Lock()
		d.raw.Write(s.Bytes())
		d.raw.WriteByte('\n')
		if parsed {
			d.lines = append(d.lines, l)
		}
		close(d.changed)
		d.changed = make(chan struct{})
		d.mu.Unlock()
	}
}

func (d *daemon) running() bool {
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// wait returns the first log line that match accepts, past or to come.
func (d *daemon) wait(what string, timeout time.Duration, match func(line) bool) line {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for seen := 0; ; {
		ended := !d.running() // before the lines, which are all there then: nothing comes after the end
		d.mu.Lock()
		lines, changed := d.lines, d.changed
		d.mu.Unlock()
		for ; seen < len(lines); seen++ {
			if match(lines[seen]) {
				return lines[seen]
			}
		}
		if ended {
			d.t.Fatalf("the daemon ended (%v) before it logged: %s", d.err, what)
		}
		select {
		case <-changed:
		case <-d.done:
		case <-ctx.Done():
			d.t.Fatalf("the daemon did not log within %s: %s", timeout, what)
		}
	}
}

// connection waits for the log line of a connection of client to port.
func (d *daemon) connection(client string, port int, match func(line) bool) line {
	d.t.Helper()
	return d.wait(fmt.Sprintf("a connection of %s to port %d", client, port), 30*time.Second, func(l line) bool {
		return l.str("msg") == "connection" && l.str("client") == client && l.num("port") == int64(port) &&
			(match == nil || match(l))
	})
}

// attached waits until mode redirect serves the container.
func (d *daemon) attached(client string) {
	d.t.Helper()
	d.wait(client+" attached", 20*time.Second, func(l line) bool {
		return l.str("msg") == "attached" && l.str("client") == client
	})
}

// stop ends the daemon with SIGTERM and demands a clean exit.
func (d *daemon) stop() {
	d.t.Helper()
	// One that has handed over ends by itself, maybe just now.
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Errorf("signal the daemon: %v", err)
	}
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		d.t.Error("the daemon did not end within 30 s of SIGTERM")
		d.kill()
	}
	if d.err != nil {
		d.t.Errorf("the daemon ended with %v", d.err)
	}
}

// kill ends the daemon as kill -9 does, and waits for the last connection that
// is carried on.
func (d *daemon) kill() {
	d.t.Helper()
	_ = d.cmd.Process.Kill()
	<-d.done
}
