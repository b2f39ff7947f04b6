//go:build integration

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on all machines
// that Linux runs on as we know it.
const clockTick = 10 * time.Millisecond

// cpuTime is how long a process has run on processors, of proc(5)'s stat.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, the 14th and 15th
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick
}

// mistaken starts a container with n labels that were meant to declare something.
func mistaken(t *testing.T, n int) (name string) {
	t.Helper()
	var labels strings.Builder
	for i := range n {
		fmt.Fprintf(&labels, "connect.x%d=a:1\n", i)
	}
	file := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(file, []byte(labels.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	name = dockertest.Name(t)
	dockertest.Run(t, "--name", name, "--label-file", file, dockertest.Image(t))
	return name
}

// freezes pauses a container and lets it go on. Docker 20.10 hears from containerd of each a
// little later, and until then may take it for an event of the next one and refuse that.
func freezes(name string) error {
	for _, command := range []string{"pause", "unpause"} {
		for until := time.Now().Add(10 * time.Second); ; {
			out, err := exec.Command("docker", command, name).CombinedOutput()
			if err == nil {
				break
			}
			if time.Now().After(until) {
				return fmt.Errorf("docker %s: %w: %s", command, err, out)
			}
		}
	}
	return nil
}

// TestTenThousandMistakesOfOneContainer cost the others nothing and the daemon next to
// nothing: over its whole life, some changes of it included.
func TestTenThousandMistakesOfOneContainer(t *testing.T) {
	s := &startup{churn: &churn{t: t}}
	s.listen("127.0.0.1", 4)
	for port := firstPort; port < firstPort+3; port++ {
		dockertest.Create(t, "-l", fmt.Sprintf("connect.%d=127.0.0.1:1", port), dockertest.Image(t))
	}
	s.daemon = startPlain(t, "run", "--mode", "redirect", "--drain-timeout", "5s")
	pid := s.daemon.cmd.Process.Pid
	fence := func(name string) {
		t.Helper()
		dockertest.Run(t, "--rm", "--name", name, "-l", "connect.80=127.0.0.1:1", dockertest.Image(t))
		s.daemon.attached(name)
	}
	fence(dockertest.Name(t))

	// life is what the daemon spends on the life of a container with n mistakes.
	life := func(n int) (name string, spent time.Duration) {
		before := cpuTime(t, pid)
		name = mistaken(t, n)
		for range 5 {
			if err := freezes(name); err != nil {
				t.Fatal(err)
			}
		}
		dockertest.Docker(t, "restart", "-t", "0", name)
		fence(dockertest.Name(t)) // all that came before is followed
		return name, cpuTime(t, pid) - before
	}
	_, usual := life(0)
	name, spent := life(10_000)
	if spent > usual+500*time.Millisecond {
		t.Errorf("the daemon spent %s of processor time on it, and %s on one without a label; want less than 500ms more", spent, usual)
	}
	t.Logf("the daemon spent %s of processor time on it, and %s on one without a label", spent, usual)

	honest := besideHonest(t, s.daemon)
	changing := make(chan struct{})
	changes := make(chan int)
	go func() {
		done := 0
		for {
			select {
			case <-changing:
				changes <- done
				return
			default:
				if err := freezes(name); err != nil {
					t.Error(err)
				}
				done += 2
			}
		}
	}()
	s.run(times(20, 50)) // each dials in its first instruction
	close(changing)
	if done := <-changes; done < 10 {
		t.Errorf("it changed %d times meanwhile; want at least 10", done)
	}
	honest.want()

	told := 0
	s.daemon.mu.Lock()
	for _, l := range s.daemon.lines {
		if l.str("msg") == "declaration" && l.str("client") == name {
			told++
		}
	}
	s.daemon.mu.Unlock()
	if told == 0 || told > 10 {
		t.Errorf("%d lines tell of its mistakes; want some, and at most 10", told)
	}
	began := time.Now()
	s.daemon.stop()
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("SIGTERM was obeyed after %s; it may drain for 5s", took)
	}
}

// TestSharedNamespaceDeclaredTwice: the one whose declaration does not hold is told so, and
// connections are logged as those of whose declaration serves them.
func TestSharedNamespaceDeclaredTwice(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	owner, joined := dockertest.Name(t), dockertest.Name(t)
	dockertest.Run(t, "--name", owner, "-l", "connect.6379="+backend, dockertest.Image(t))
	dockertest.Run(t, "--name", joined, "--network", "container:"+owner, "-l", "connect.6379=127.0.0.1:1", "-l", "connect.6380="+backend, dockertest.Image(t))
	d := start(t, "run")
	d.attached(owner)
	honest := besideHonest(t, d)
	l := d.wait("whose declaration does not hold", 10*time.Second, func(l line) bool {
		return l.str("msg") == "declaration" && l.str("client") == joined
	})
	if l.str("origin") != "label connect.6379" || l.str("hint") == "" ||
		!strings.Contains(l.str("error"), "port 6379 is declared by container "+owner+", which owns this network namespace, with the target "+backend) {
		t.Errorf("the daemon logged %v", l)
	}
	c := client{name: joined, ns: containerNamespace(t, owner)}
	for port, by := range map[int]string{6379: owner, 6380: joined} {
		if _, err := echoed(c.ns, loopback(port)); err != nil {
			t.Errorf("port %d: %v", port, err)
		}
		d.connection(by, port, func(l line) bool { return l.str("reason") == "" })
	}
	honest.want()
}

// TestMistypedCommandsServeNothing: what is no command of ours is no target either, and
// nobody listens for it.
func TestMistypedCommandsServeNothing(t *testing.T) {
	honest := besideHonest(t, start(t, "run"))
	for _, args := range [][]string{{"stauts"}, {"stats"}, {"stauts", "--listen", "127.0.0.1:0"}, {"check", "stauts"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, binary, args...)
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		err := cmd.Run()
		cancel()
		if cmd.ProcessState.ExitCode() <= 0 || !strings.Contains(said.String(), "hint") || strings.Contains(said.String(), "listening") {
			t.Errorf("%q: %v, %q; want that it ends and says what may have been meant", args, err, said.String())
		}
	}
	honest.want()
}
