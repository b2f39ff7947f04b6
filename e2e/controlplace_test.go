//go:build integration

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
)

// oldNames are the abstract names of older versions, and one that only contains such a name.
var oldNames = []string{"@ambassadord/redirect", "@ambassadord/control", "@ambassadord/draining/1-1", "@x/@ambassadord/draining/2-2"}

var buildIntruder = program("intruder")

// intruder is what e2e/internal/intruder prints at its end.
type intruder struct{ Asked, Descriptors, Answers int }

func parseIntruder(t *testing.T, out string) intruder {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var i intruder
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &i); err != nil {
		t.Fatalf("the intruder says %q: %v", out, err)
	}
	return i
}

// intrude runs the intruder in a container on the host's network that has no capability.
func intrude(t *testing.T, options []string, args ...string) intruder {
	t.Helper()
	path, err := buildIntruder()
	if err != nil {
		t.Fatal(err)
	}
	run := append([]string{"--network", "host", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "-v=" + path + ":/intruder:ro"}, options...)
	id := dockertest.Run(t, append(append(run, dockertest.Image(t), "/intruder"), args...)...)
	dockertest.Docker(t, "wait", id)
	return parseIntruder(t, dockertest.Docker(t, "logs", id))
}

// TestTenantOnTheHostsNetwork has a container dial all that it finds, and ask it for a
// takeover: root without capabilities, and the same with the daemon's folder mounted into
// it. It gets no descriptor; whoever dials beside it is served, and the log stays short.
func TestTenantOnTheHostsNetwork(t *testing.T) {
	d := startPlain(t, "run", "--mode", "redirect")
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	load, honest := startLoad(t, backend, "127.0.0.1:6379", 100, 20), besideHonest(t, d)
	for name, options := range map[string][]string{
		"alone":           nil,
		"with the folder": {"-v=/run/ambassadord:/run/ambassadord"},
		"with /run":       {"-v=/run:/run"},
		"as a user":       {"--user", "1000", "-v=/run:/run"},
	} {
		got := intrude(t, options, "/run/ambassadord")
		if got.Descriptors > 0 || got.Asked == 0 {
			t.Errorf("%s: %+v; want that it asks, and gets no descriptor", name, got)
		}
		if reachable := options != nil && options[0] != "--user"; reachable != (got.Answers > 0) {
			t.Errorf("%s: %+v; want an answer only where the folder can be reached", name, got)
		}
	}
	honest.want()
	load.finish()
	refused := d.said("refused at the control socket")
	if len(refused) == 0 || len(refused) > 40 {
		t.Errorf("the log has %d lines of refused peers; want some, and at most 40 in about ten seconds", len(refused))
	}
	d.stop()
}

// TestSquattedNames has others take every name that older versions had: the daemon starts,
// reloads, is taken over from, names them, and leaves nothing behind.
func TestSquattedNames(t *testing.T) {
	path, err := buildIntruder()
	if err != nil {
		t.Fatal(err)
	}
	const long = "60s"
	squat := []string{"-for", long, "-squat", strings.Join(oldNames, ",")}
	for who, squatters := range map[string]func(t *testing.T) (pid string){
		"a local user": func(t *testing.T) string {
			cmd := exec.Command("/proc/self/fd/3", squat...)
			program, err := os.Open(path) // its folder is root's alone
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			cmd.ExtraFiles, cmd.Dir = []*os.File{program}, "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "squatting\n" {
				t.Fatalf("the squatter says %q, %v", line, err)
			}
			return fmt.Sprint(cmd.Process.Pid)
		},
		"a container": func(t *testing.T) string {
			options := []string{"--network", "host", "--user", "1000", "--cap-drop", "ALL", "-v=" + path + ":/intruder:ro", dockertest.Image(t), "/intruder"}
			id := dockertest.Run(t, append(options, squat...)...)
			poll(t, 10*time.Second, "it squats", func() error {
				if out := dockertest.Docker(t, "logs", id); !strings.Contains(out, "squatting") {
					return fmt.Errorf("it says %q", out)
				}
				return nil
			})
			return dockertest.Docker(t, "inspect", "-f", "{{.State.Pid}}", id)
		},
	} {
		t.Run(who, func(t *testing.T) {
			pid := squatters(t)
			file := filepath.Join(t.TempDir(), "config.yml")
			if err := os.WriteFile(file, []byte("mode: redirect\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
			c := declaring(t, map[int]string{6379: backend})
			served := func(when string) {
				t.Helper()
				poll(t, 10*time.Second, "a connection "+when, func() error {
					conn, err := tryDialIn(c.ns, "127.0.0.1:6379")
					if err != nil {
						return err
					}
					defer conn.Close()
					return pingPong(conn)
				})
			}
			first := startPlain(t, "run", "--config", file)
			served("at first")
			honest := besideHonest(t, first)
			if status, stdout, stderr := ambassadord(t, "reload"); status != 0 {
				t.Errorf("reload: exit %d, %q, %q", status, stdout, stderr)
			}
			doctor := diagnose(t, []string{binary})
			doctor.want("daemon", "warn", fmt.Sprintf("one is running: process %d", first.cmd.Process.Pid), "end that process")
			doctor.want("daemon", "warn", "is held by process "+pid+" (", "")
			next := startPlain(t, "run", "--config", file, "--takeover")
			first.ended(20 * time.Second)
			served("after a takeover")
			honest.d = next
			honest.want()
			for _, d := range []*daemon{first, next} {
				if n := honest.othersLines(d); n > 60 {
					t.Errorf("a daemon wrote %d lines; want a few", n)
				}
			}
			next.stop()
			if err := wantChains(c, 0, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLogReaderThatEnds ends whoever reads the daemon's log: the daemon goes on, and ends
// as ever when it is told to.
func TestLogReaderThatEnds(t *testing.T) {
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend})
	log, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(path, lenient([]string{"run", "--mode", "redirect"})...)
	cmd.Stderr = theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	d := &daemon{t: t, cmd: cmd, done: make(chan struct{})}
	go func() { defer close(d.done); d.err = cmd.Wait() }()
	t.Cleanup(d.kill)
	for lines := bufio.NewScanner(log); lines.Scan() && !strings.Contains(lines.Text(), "msg=attached"); {
	}
	log.Close() // its reader has ended
	honest := besideHonest(t, d)
	for range 20 {
		conn := dialIn(t, c.ns, "127.0.0.1:6379")
		if err := pingPong(conn); err != nil {
			t.Fatalf("without a reader of the log: %v", err)
		}
		conn.Close()
		time.Sleep(20 * time.Millisecond) // several writes of the log, which gathers lines for 50 ms
	}
	honest.want()
	d.stop()
	if err := wantChains(c, 0, 0); err != nil {
		t.Error(err)
	}
}

// TestCommandsEndQuietly: a command whose output nobody reads ends by SIGPIPE, as others do.
func TestCommandsEndQuietly(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(binary, "version")
	cmd.Stdout = w
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err = cmd.Run()
	w.Close()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGPIPE || stderr.Len() > 0 {
		t.Errorf("it ended with %v and said %q; want SIGPIPE, and nothing", err, stderr.String())
	}
}

// TestRulesOfOthersStay has a daemon in another network namespace: neither `rules remove` on
// the host nor a daemon that is the last to drain touches what it has set.
func TestRulesOfOthersStay(t *testing.T) {
	// The namespace needs a process that All finds it by: the daemon is one.
	lab := netlab.New(t)
	startIn(t, lab.NS(), nil, nil, "run", "--mode", "link", "--trust-source-addresses", "--run-dir", filepath.Join(t.TempDir(), "run"))
	rules := func() string { return filtertest.Save(t, lab.NS(), netrules.IPv4) }
	if !strings.Contains(rules(), ":AMBASSADORD") {
		t.Fatalf("the other daemon has no chain:\n%s", rules())
	}
	stays := func(after string) {
		t.Helper()
		if !strings.Contains(rules(), ":AMBASSADORD") {
			t.Errorf("after %s its chain has gone:\n%s", after, rules())
		}
	}
	status, stdout, stderr := ambassadord(t, "rules", "remove")
	if status != 0 || !strings.Contains(stdout, "left alone, for it is served by process") {
		t.Errorf("rules remove: exit %d, %q, %q; want that it says what it leaves alone", status, stdout, stderr)
	}
	stays("rules remove")

	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	old := startPlain(t, "run", "--mode", "redirect")
	c := declaring(t, map[int]string{6379: backend})
	old.attached(c.name)
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	honest := besideHonest(t, old)
	if status, stdout, _ := ambassadord(t, "rules", "remove"); status == 0 && !strings.Contains(stdout, "left alone, for it is served by process") {
		t.Errorf("rules remove beside a daemon: %q", stdout)
	}
	stays("rules remove beside a daemon")
	next := startPlain(t, "run", "--mode", "redirect", "--takeover")
	honest.d = next
	honest.want()
	next.stop()
	live.Close()
	old.ended(20 * time.Second)
	stays("the last daemon's end")
	if err := wantChains(c, 0, 0); err != nil {
		t.Error(err)
	}
	// The other daemon puts them back at its next repair.
	if status, stdout, stderr := ambassadord(t, "rules", "remove", "--force"); status != 0 || strings.Contains(stdout, "\n0 chains removed") || strings.Contains(stdout, "left alone") {
		t.Errorf("rules remove --force: exit %d, %q, %q; want that it removes the other's", status, stdout, stderr)
	}
}

// TestTakeoverFromAnOlderVersion plays a daemon that has abstract names alone: a new one
// does not serve beside it, and takes over what it has when told to.
func TestTakeoverFromAnOlderVersion(t *testing.T) {
	fixed, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	address := fixed.Addr().String()
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	waiting, err := net.Dial("tcp", address) // nobody accepts it here
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	lock, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@ambassadord/redirect", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	name := "@ambassadord/control"
	control, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()

	if status, _, stderr := ambassadord(t, "run", "--mode", "redirect"); status != 1 || !strings.Contains(stderr, "another ambassadord serves this host already") {
		t.Errorf("run beside an older version: exit %d, %q", status, stderr)
	}

	gave := make(chan error, 1)
	go func() { gave <- giveAsBefore(control, fixed, lock) }()
	next := startPlain(t, "run", "--mode", "redirect", address+"="+backend, "--takeover")
	if err := <-gave; err != nil {
		t.Fatal(err)
	}
	if err := pingPong(waiting.(*net.TCPConn)); err != nil {
		t.Errorf("a connection that waited with the older version: %v", err)
	}
	next.wait("took over", time.Second, func(l line) bool { return l.str("msg") == "took over" })
	diagnose(t, []string{binary}).want("daemon", "ok", fmt.Sprintf("process %d", next.cmd.Process.Pid), "")
	// An older version that is started now finds its lock held.
	if _, err := net.Listen("unix", "@ambassadord/redirect"); err == nil {
		t.Error("the older versions' lock is free beside the new daemon")
	}
	next.stop()
}

// giveAsBefore is the older version's side of a takeover.
func giveAsBefore(control *net.UnixListener, fixed *net.TCPListener, lock *net.UnixListener) error {
	_ = control.SetDeadline(time.Now().Add(20 * time.Second))
	for {
		conn, err := control.AcceptUnix()
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 64<<10)
		n, err := conn.Read(b)
		if errors.Is(err, io.EOF) || err == nil && n == 0 { // who only looked who listens
			conn.Close()
			continue
		}
		if err != nil || !strings.Contains(string(b[:n]), `"takeover"`) {
			return fmt.Errorf("it was asked %q, %w", b[:n], err)
		}
		var fds []int
		for _, l := range []interface{ File() (*os.File, error) }{fixed, lock} {
			file, err := l.File()
			if err != nil {
				return err
			}
			defer file.Close()
			fds = append(fds, int(file.Fd()))
		}
		if _, _, err := conn.WriteMsgUnix([]byte(`{"sockets":[{"role":"fixed"},{"role":"lock"}]}`), unix.UnixRights(fds...), nil); err != nil {
			return err
		}
		if _, err := conn.Write([]byte(`{"phase":"offered"}`)); err != nil {
			return err
		}
		if n, err = conn.Read(b); err != nil || !strings.Contains(string(b[:n]), `"accepting"`) {
			return fmt.Errorf("it answered %q, %w", b[:n], err)
		}
		fixed.Close()
		lock.Close()
		control.Close()
		for _, phase := range []string{"leaving", "done"} {
			if _, err := conn.Write([]byte(`{"phase":"` + phase + `"}`)); err != nil {
				return err
			}
		}
		return conn.Close()
	}
}

// TestFolderThatCannotBe has what somebody could put in the folder's place: the daemon does
// not start, and says what to do.
func TestFolderThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "open"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "open"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"open": "chmod 700", "link": "is a link", "fifo": "is not a folder"} {
		status, _, stderr := ambassadord(t, "run", "--mode", "redirect", "--run-dir", filepath.Join(dir, name))
		if status != 1 || !strings.Contains(stderr, want) || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%s: exit %d, %q; want %q and a hint", name, status, stderr, want)
		}
		doctor := diagnose(t, []string{binary}, "--run-dir", filepath.Join(dir, name))
		if f := doctor.of("daemon"); f.Status != "fail" {
			t.Errorf("%s: doctor says %+v; want that it fails", name, f)
		}
	}
}
