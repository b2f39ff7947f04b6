//go:build integration

package e2e

import (
	"cmp"
	"flag"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// atOnce is how many containers are started at the same time.
const atOnce = 12

var startsUnderLoad = flag.Int("starts", 0, fmt.Sprintf("how many containers TestFirstInstructionUnderLoad starts of each kind (default %d, %d with -thorough)", atOnce, 2*atOnce))

// occupy has count processes use all the processor time that they can get until the test ends.
func occupy(t *testing.T, count int) {
	t.Helper()
	for range count {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = busy.Process.Kill(); _ = busy.Wait() })
	}
}

// Twelve containers are started at once on a machine whose processors others want: what they
// dial in their first instruction is there. An engine of today leaves 8 ms for it.
func TestFirstInstructionUnderLoad(t *testing.T) {
	s := &startup{churn: &churn{t: t, lanes: atOnce}}
	s.listen("127.0.0.1", 4)
	// By these, what others declare is prepared for everybody from the beginning.
	for port := firstPort; port < firstPort+3; port++ {
		dockertest.Create(t, "-l", fmt.Sprintf("connect.%d=127.0.0.1:1", port), dockertest.Image(t))
	}
	owner := dockertest.Name(t)
	dockertest.Run(t, "--name", owner, "--network", "none", dockertest.Image(t))
	clientOption(t) // is built before the machine is busy
	s.daemon = startPlain(t, "run", "--mode", "redirect")
	occupy(t, 2)

	next := firstPort + 100 // what nobody has declared before
	starts := cmp.Or(*startsUnderLoad, times(atOnce, 2*atOnce))
	for _, row := range []struct {
		name, network string
		known         bool // the port has been declared by others
		declare       func(port int, target string) []string
	}{
		{"what others declare, network none", "none", true, byLabel},
		{"by label, network none", "none", false, byLabel},
		{"by environment, network none", "none", false, byEnvironment},
		{"by label, network bridge", "bridge", false, byLabel},
		{"by environment, network bridge", "bridge", false, byEnvironment},
		{"by label, of one that joins", "container:" + owner, false, byLabel},
		{"by environment, of one that joins", "container:" + owner, false, byEnvironment},
	} {
		t.Run(row.name, func(t *testing.T) {
			s.t = t
			var late atomic.Int64
			first := next
			next += starts
			s.each(starts, func(i int) {
				port := first + i
				if row.known {
					port = firstPort + i%3
				}
				b, token := s.backends[i%len(s.backends)], fmt.Sprintf("%d-%d", first, i)
				s.expect(token, b)
				args := append([]string{"run", "--rm", "--name", dockertest.Name(t), "--network", row.network, clientOption(t)}, row.declare(port, b.target())...)
				args = append(args, dockertest.Image(t), "/client", "-within", "0", "-patience", "30s", "-token", token, "-want", b.name, fmt.Sprintf("localhost:%d", port))
				out, err := exec.Command("docker", args...).CombinedOutput()
				switch {
				case err == nil:
				case strings.Contains(string(out), "connection refused"):
					late.Add(1)
				default:
					t.Errorf("docker %s: %v: %s", strings.Join(args, " "), err, out)
				}
			})
			t.Logf("%d of %d first dials were served", int64(starts)-late.Load(), starts)
			if late.Load() > 0 {
				t.Errorf("%d of %d dialled too early; want none", late.Load(), starts)
			}
		})
	}
	s.t = t
}

// Without the process that prepares at real-time priority the daemon does it itself: while that is
// started again, and where it may not have the priority.
func TestFirstInstructionWithoutPriority(t *testing.T) {
	s := &startup{churn: &churn{t: t}}
	s.listen("127.0.0.1", 1)
	next := firstPort
	serve := func(t *testing.T) {
		s.t = t
		s.each(8, func(i int) {
			port, b, token := next+i, s.backends[0], fmt.Sprintf("priority-%d", next+i)
			s.expect(token, b)
			args := append([]string{"run", "--rm", "--name", dockertest.Name(t), clientOption(t)}, byLabel(port, b.target())...)
			s.docker(i, append(args, dockertest.Image(t), "/client", "-token", token, "-want", b.name, fmt.Sprintf("localhost:%d", port)))
		})
		next += 100
	}
	urgent := func(n int) {
		t.Helper()
		seen := 0
		s.daemon.wait("that it has the priority", 20*time.Second, func(l line) bool {
			if l.str("msg") == "new network namespaces are prepared at real-time priority" {
				seen++
			}
			return seen == n
		})
	}
	t.Run("denied", func(t *testing.T) {
		args := slices.Concat([]string{"--inh-caps", "-sys_nice", "--bounding-set", "-sys_nice", binary}, lenient([]string{"run", "--mode", "redirect"}), []string{"--log-format", "json"})
		s.daemon = launch(t, exec.Command("setpriv", args...), nil)
		s.daemon.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
		s.daemon.wait("what it lacks", 20*time.Second, func(l line) bool {
			return l.str("level") == "INFO" && strings.Contains(l.str("error"), "real-time priority is not allowed") && strings.Contains(l.str("hint"), "SYS_NICE")
		})
		serve(t)
	})
	t.Run("killed", func(t *testing.T) {
		s.daemon = start(t, "run", "--mode", "redirect", "--log-level", "debug")
		urgent(1)
		serve(t)
		if err := unix.Kill(childOf(t, s.daemon.cmd.Process.Pid, "preparer"), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.daemon.wait("that it has ended", 20*time.Second, func(l line) bool {
			return l.str("level") == "WARN" && strings.Contains(l.str("error"), "signal: killed")
		})
		serve(t)
		urgent(2)
		serve(t)
	})
	s.t = t
}

// byLabel and byEnvironment are how docker run is told that a container declares port.
func byLabel(port int, target string) []string {
	return []string{"-l", fmt.Sprintf("connect.%d=%s", port, target)}
}

func byEnvironment(port int, target string) []string {
	return []string{"-e", fmt.Sprintf("BACKEND_%d=%s", port, target)}
}
