//go:build integration

package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
)

// TestEngineRestartsItsContainers restarts an engine with which its containers end. Those
// that it starts again run before its API answers, in other namespaces and with one another's
// addresses. Each client wants one backend, and dials as soon as it runs.
func TestEngineRestartsItsContainers(t *testing.T) {
	const backends, clients, restarts = 5, 10, 3
	archive := filepath.Join(t.TempDir(), "image.tar")
	image := dockertest.Image(t)
	dockertest.Docker(t, "save", "-o", archive, image)
	e := startEngineIn(t, netlab.New(t))
	e.docker("load", "-i", archive)
	d := launch(t, exec.Command("nsenter", "-t", strconv.Itoa(e.cmd.Process.Pid), "-n", binary,
		"run", "--mode", "redirect", "--docker-host", e.endpoint(), "--log-format", "json", "--log-level", "debug"), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })

	always := []string{"run", "-d", "--restart", "always", "--stop-signal", "KILL"}
	for i := range backends {
		name := fmt.Sprintf("web-%d", i)
		e.docker(append(always, "--name", name, "--hostname", name, image, "nc", "-ll", "-p", "80", "-e", "sh", "-c", "read line; hostname")...)
	}
	name := func(i int) string { return fmt.Sprintf("client-%d", i) }
	for i := range clients {
		web := fmt.Sprintf("web-%d", i%backends)
		ask := "/client -within 0 -patience 1m -want " + web + " localhost:7000 >>/log 2>&1 || echo failed >>/log"
		e.docker(append(always, "--name", name(i), clientOption(t), "-l", "connect.7000=docker://"+web+":80",
			"-l", "connect.7000.wait=50s", "-l", "connect.7000.timeout=50s", image,
			"sh", "-c", "echo started >>/log; while :; do "+ask+"; sleep 0.05; done")...)
	}
	served := func(times int) {
		t.Helper()
		for i := range clients {
			poll(t, 2*time.Minute, fmt.Sprintf("%s is served after start %d", name(i), times), func() error {
				out, err := dockertest.Try(t, "-H", e.endpoint(), "exec", name(i), "cat", "/log")
				if err != nil {
					return err
				}
				starts := strings.Split(out, "started\n")[1:]
				if len(starts) < times {
					return fmt.Errorf("%d starts", len(starts))
				}
				if !strings.Contains(starts[times-1], fmt.Sprintf("\nweb-%d\n", i%backends)) && !strings.Contains(starts[times-1], "failed") {
					return errors.New("no answer yet")
				}
				return nil
			})
		}
	}
	served(1)
	for i := range restarts {
		e.stop()
		e.start()
		served(i + 2)
	}
	for i := range clients {
		out := e.docker("exec", name(i), "cat", "/log")
		if strings.Contains(out, "foreign answer") {
			t.Errorf("%s reached somebody else:\n%s", name(i), out)
		}
		for at, start := range strings.Split(out, "started\n")[1:] {
			// What was going on when the engine ended its backend may have failed; the first
			// dial after a start may not.
			lines := strings.Split(start, "\n")
			if len(lines) < 2 || lines[1] != fmt.Sprintf("web-%d", i%backends) {
				t.Errorf("%s, start %d: its first dial was answered %q", name(i), at, lines)
			}
		}
	}
}
