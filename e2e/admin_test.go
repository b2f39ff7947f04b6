//go:build integration

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// TestStatusOfContainers asks a daemon of a host, by its commands, what a container gets and what is wrong
// with another's declaration; and a second one that has taken over.
func TestStatusOfContainers(t *testing.T) {
	folder, err := os.MkdirTemp("/tmp", "status-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	socket := filepath.Join(folder, "admin.sock")
	ask := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), binary, append(args, "--admin", socket)...).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return string(out)
	}
	expect := func(want []string, args ...string) {
		t.Helper()
		poll(t, 20*time.Second, fmt.Sprint(args, " tells ", want), func() error {
			out := ask(args...)
			for _, w := range want {
				if !strings.Contains(out, w) {
					return fmt.Errorf("it says\n%s", out)
				}
			}
			return nil
		})
	}
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	start(t, "run", "--admin", socket)
	l := startLoad(t, backend, "127.0.0.1:6379", 10, 3)
	mistaken := dockertest.Name(t)
	dockertest.Run(t, "--name", mistaken, "-l", "connect.port=nothing", dockertest.Image(t))
	known := []string{": ready\n", "engine: answers", l.name, "label connect.6379", backend, mistaken, "connect.port"}
	expect(known, "status", "--all")
	expect([]string{l.name, "6379", backend}, "connections", "--client", l.name, "--endpoint", backend)
	expect([]string{"no such connection"}, "connections", "--client", mistaken)
	start(t, "run", "--takeover", "--admin", socket)
	expect(known, "status", "--all")
	l.finish()
}
