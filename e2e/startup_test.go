//go:build integration

package e2e

import (
	"cmp"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
)

// startup starts containers whose first act is to dial localhost, and which do not
// try again.
type startup struct {
	*churn

	daemon *daemon
	peer   string // a name that Docker's DNS knows; "" without one
}

// firstPort is the first of the ports that the containers declare in turn.
const firstPort = 7000

// one runs the container number i. Each declares another port and target than the
// one before. Every fifth declares nothing, is itself the server at a port that
// others declare, and takes a while to answer: longer than it takes to see that
// it declares nothing, and to take down what was prepared for it.
func (s *startup) one(i int, options []string) {
	port := firstPort + i%3
	name, b := dockertest.Name(s.t), s.backends[i%len(s.backends)]
	token := fmt.Sprintf("token-%d", i)
	args := append([]string{"run", "--rm", "--name", name}, options...)
	client := []string{"/client", "-within", "0", "-token", token}
	if i%5 == 4 {
		client = append(client, "-want", name, "-serve", name, "-pause", "1s")
	} else {
		s.expect(token, b)
		args = append(args, "-l", fmt.Sprintf("connect.%d=%s", port, b.target()))
		client = append(client, "-want", b.name)
	}
	client = append(client, fmt.Sprintf("localhost:%d", port))
	args = append(args, clientOption(s.t), dockertest.Image(s.t))
	if s.peer != "" && i%2 == 0 {
		args = append(args, "sh", "-c", "nslookup "+s.peer+" && "+strings.Join(client, " "))
	} else {
		args = append(args, client...)
	}
	s.docker(i, args)
}

// docker runs the container number i, and fails the test if that fails.
func (s *startup) docker(i int, args []string) {
	if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
		s.t.Errorf("container %d: docker %s: %v: %s", i, strings.Join(args, " "), err, out)
	}
}

// each calls start for count containers, four at once unless s says otherwise.
func (s *startup) each(count int, start func(i int)) {
	var next atomic.Int64
	var lanes sync.WaitGroup
	for range cmp.Or(s.lanes, 4) {
		lanes.Go(func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				start(i)
			}
		})
	}
	lanes.Wait()
	s.checkForeign()
}

// run starts count containers.
func (s *startup) run(count int, options ...string) {
	s.each(count, func(i int) { s.one(i, options) })
}

func TestFirstInstruction(t *testing.T) {
	s := &startup{churn: &churn{t: t}}
	s.listen("127.0.0.1", 4)
	// These may be started at any time, so what they declare is prepared for
	// everybody.
	for port := firstPort; port < firstPort+3; port++ {
		dockertest.Create(t, "-l", fmt.Sprintf("connect.%d=127.0.0.1:1", port), dockertest.Image(t))
	}
	network := dockertest.Network(t)
	peer := dockertest.Name(t)
	dockertest.Run(t, "--name", peer, "--network", network, dockertest.Image(t))
	s.daemon = start(t, "run", "--mode", "redirect", "--log-level", "debug") // its log is to tell why one was too early
	pid := s.daemon.cmd.Process.Pid

	t.Run("default bridge", func(t *testing.T) {
		s.t = t
		s.run(times(40, 100))
	})
	t.Run("user network", func(t *testing.T) {
		s.t, s.peer = t, peer
		s.run(times(40, 100), "--network", network)
	})
	s.t = t
	s.daemon.wait("a connection that is let through", connPatience, func(l line) bool {
		return l.str("msg") == "connection" && l.str("endpoint_name") == "the container itself" && l.str("reason") == ""
	})
	wantNothingHeld(t, pid, 0)

	// One that stays has nothing of ours left.
	id := dockertest.Run(t, dockertest.Image(t))
	ns := containerNamespace(t, id)
	poll(t, 20*time.Second, "a container that declares nothing is as it was", func() error {
		for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
			if rules := filtertest.Save(t, ns, f); rules != "" {
				return fmt.Errorf("%s:\n%s", f, rules)
			}
		}
		return nil
	})
	wantNothingHeld(t, pid, 0)
	wantNoEarlyNamespace(t, s.daemon)
}

// wantNoEarlyNamespace ends the daemon and demands that it cleaned up by itself.
func wantNoEarlyNamespace(t *testing.T, d *daemon) {
	t.Helper()
	wantNoGoroutines(t, d)
	d.mu.Lock()
	defer d.mu.Unlock()
	if dump := d.raw.String(); !strings.Contains(dump, "preparer.(*Preparer).Run(") || strings.Contains(dump, "attach.runEarly(") {
		t.Error("the daemon does not watch for new namespaces any more, or still works in one")
	}
}

// Nobody has declared these ports before: what is to be prepared is known from the
// moment of the container's creation, which its start follows at once, and of what
// the environment declares the engine does not speak until the container runs.
func TestFirstInstructionOfAnUnknown(t *testing.T) {
	s := &startup{churn: &churn{t: t}}
	s.listen("127.0.0.1", 4)
	s.daemon = start(t, "run", "--mode", "redirect", "--log-level", "debug")
	for name, declare := range map[string]func(port int, target string) []string{"by label": byLabel, "by environment": byEnvironment} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.each(times(16, 40), func(i int) {
				port, b, token := firstPort+i, s.backends[i%len(s.backends)], fmt.Sprintf("%s-%d", strings.Fields(name)[1], i)
				s.expect(token, b)
				args := append([]string{"run", "--rm", "--name", dockertest.Name(t), clientOption(t)}, declare(port, b.target())...)
				s.docker(i, append(args, dockertest.Image(t), "/client", "-within", "0", "-token", token, "-want", b.name, fmt.Sprintf("localhost:%d", port)))
			})
		})
	}
	s.t = t
}

// A container serves a port itself, at 127.0.0.1 alone, which one that does not run
// declares, and dials it as localhost: engines of today give it ::1 as well, which is
// dialled first.
func TestFirstInstructionOfAServer(t *testing.T) {
	s := &startup{churn: &churn{t: t}}
	dockertest.Create(t, "-l", fmt.Sprintf("connect.%d=127.0.0.1:1", firstPort), dockertest.Image(t))
	s.daemon = start(t, "run", "--mode", "redirect", "--log-level", "debug")
	for _, network := range []string{"bridge", "none"} {
		t.Run(network, func(t *testing.T) {
			s.t = t
			s.each(10, func(i int) {
				name := dockertest.Name(t)
				s.docker(i, []string{"run", "--rm", "--name", name, "--network", network, clientOption(t), dockertest.Image(t),
					"/client", "-within", "0", "-want", name, "-serve", name, fmt.Sprintf("localhost:%d", firstPort)})
			})
		})
	}
	s.t = t
}

// A container that starts again was running a moment before.
func TestFirstInstructionAfterRestart(t *testing.T) {
	s := &startup{churn: &churn{t: t}}
	s.listen("127.0.0.1", 1)
	b := s.backends[0]
	start(t, "run", "--mode", "redirect")
	name := dockertest.Name(t)
	dockertest.Create(t, "--name", name, "--restart", "always", "-e", "BACKEND_7000="+b.target(), clientOption(t), dockertest.Image(t),
		"sh", "-c", "/client -within 0 -token restart -want "+b.name+" localhost:7000 >> /answers 2>&1; exec sleep 1000")
	s.expect("restart", b)
	dockertest.Docker(t, "start", name)
	const restarts = 8
	for starts := 1; ; starts++ {
		// The next restart would kill a client that has no answer yet.
		poll(t, connPatience, "every start was answered", func() error {
			out, err := dockertest.Exec(t, name, "cat", "/answers")
			if answered := strings.Count(out, b.name+"\n"); err == nil && answered != starts {
				return fmt.Errorf("%d of %d starts: %s", answered, starts, out)
			}
			return err
		})
		if starts > restarts {
			break
		}
		dockertest.Docker(t, "restart", "-t", "0", name)
	}
	s.checkForeign()
}

// Where an engine mounts namespaces that keeps them elsewhere, its first container
// tells; those after it may dial at once.
func TestFirstInstructionElsewhere(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "image.tar")
	image := dockertest.Image(t)
	dockertest.Docker(t, "save", "-o", archive, image)
	option := clientOption(t)
	serve := func(t *testing.T, host string, run func(args ...string) (string, error)) {
		s := &startup{churn: &churn{t: t}}
		s.listen("127.0.0.1", 1)
		b := s.backends[0]
		s.daemon = start(t, "run", "--mode", "redirect", "--docker-host", host, "--log-level", "debug")
		first := dockertest.Name(t)
		if out, err := run("run", "-d", "--name", first, "-l", "connect.7000="+b.target(), image); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		s.daemon.attached(first)
		s.each(10, func(i int) {
			token := fmt.Sprintf("elsewhere-%d", i)
			s.expect(token, b)
			port := fmt.Sprint(firstPort + 1 + i)
			if out, err := run("run", "--rm", "--name", dockertest.Name(t), "-l", "connect."+port+"="+b.target(), option, image,
				"/client", "-within", "0", "-token", token, "-want", b.name, "localhost:"+port); err != nil {
				t.Errorf("container %d: %v: %s", i, err, out)
			}
		})
	}
	t.Run("Docker with an --exec-root", func(t *testing.T) {
		e := startEngine(t)
		e.docker("load", "-i", archive)
		serve(t, e.endpoint(), func(args ...string) (string, error) {
			args = append([]string{"-H", e.endpoint(), args[0], "--network", "none"}, args[1:]...)
			out, err := exec.Command("docker", args...).CombinedOutput()
			return string(out), err
		})
	})
	t.Run("Podman", func(t *testing.T) {
		p := startPodman(t)
		p.podman("load", "-i", archive)
		serve(t, p.host(), func(args ...string) (string, error) {
			return p.run(append([]string{args[0], "--network", "bridge"}, args[1:]...)...)
		})
	})
}
