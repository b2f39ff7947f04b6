//go:build integration

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// podmanConf keeps what is the machine's out of a test's own Podman, and Podman
// out of what is the machine's: the lock file in /dev/shm and systemd. As root it
// would ask for more open files than the machine may have to give.
const podmanConf = `
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
`

// podman is a Podman of a test's own, with its service on a socket.
type podman struct {
	t    *testing.T
	dir  string
	env  []string
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{}
}

func startPodman(t *testing.T) *podman {
	t.Helper()
	// Its sockets are below, and a socket's path is at most 108 bytes long.
	dir, err := os.MkdirTemp("", "podman")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		poll(t, 20*time.Second, "Podman leaves its folder", func() error { return unnamed(dir) })
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	conf := filepath.Join(dir, "containers.conf")
	if err := os.WriteFile(conf, []byte(podmanConf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &podman{t: t, dir: dir, env: append(os.Environ(), "CONTAINERS_CONF="+conf), done: make(chan struct{})}
	// In a network namespace of its own, whatever it may do to the firewall.
	p.cmd = exec.Command("unshare", "--net", "podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
		"--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs", "system", "service", "--time=0", p.host())
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = p.env, &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }()
	t.Cleanup(p.stop)
	poll(t, 20*time.Second, "Podman's service answers", func() error {
		select {
		case <-p.done:
			t.Fatalf("Podman's service has ended; its log:\n%s", p.log.Bytes())
		default:
		}
		_, err := p.run("version")
		return err
	})
	t.Cleanup(func() {
		if _, err := p.run("rm", "--all", "--force", "--time", "0"); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *podman) host() string { return "unix://" + filepath.Join(p.dir, "podman.sock") }

// unnamed fails while a command line has dir in it: each container's end starts a
// podman of its own, which tidies up and outlives the service.
func unnamed(dir string) error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file) // that of a process which has just ended is none
		if bytes.Contains(line, []byte(dir)) {
			err = errors.Join(err, fmt.Errorf("%s: %q", file, line))
		}
	}
	return err
}

func (p *podman) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails where it has ended, which done tells
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("Podman's service did not end; its log:\n%s", p.log.Bytes())
	}
}

// run is one podman command, asked of the service. It returns the command's
// standard output, trimmed.
func (p *podman) run(args ...string) (string, error) {
	cmd := exec.Command("podman", append([]string{"--remote", "--url", p.host()}, args...)...)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr = p.env, &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("podman %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), err
}

func (p *podman) podman(args ...string) string {
	p.t.Helper()
	out, err := p.run(args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// client is the running container of that name.
func (p *podman) client(name string) client {
	p.t.Helper()
	return client{name: name, ns: openNamespace(p.t, "/proc/"+p.podman("inspect", "-f", "{{.State.Pid}}", name)+"/ns/net")}
}

// TestPodman has the daemon follow a Podman instead of a Docker engine.
func TestPodman(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	p := startPodman(t)
	image := dockertest.Image(t)
	archive := filepath.Join(p.dir, "image.tar")
	dockertest.Docker(t, "save", "-o", archive, image)
	p.podman("load", "-i", archive)

	// What is seen within moments, an event has told: the daemon lists every 30 s, and
	// here it looks after its rules no more often.
	d := start(t, "run", "--docker-host", p.host(), "--repair-interval", "1m")
	declaring := func() (name, id string) {
		name = dockertest.Name(t)
		id = p.podman("run", "-d", "--network", "none", "--name", name, "-l", "connect.6379="+backend, image)
		d.attached(name)
		return name, id
	}
	name, id := declaring()
	first := p.client(name)
	if err := connects(first); err != nil {
		t.Fatal(err)
	}
	d.connection(name, 6379, func(l line) bool { return l.str("endpoint") == backend && strings.HasPrefix(id, l.str("id")) })

	// Events come in order: once another container is served, none of the first one's
	// start is on its way. The test keeps the namespace of the container that has ended.
	declaring()
	p.podman("stop", "-t", "0", name)
	poll(t, 10*time.Second, "the daemon leaves a container that has ended", func() error {
		if conn, err := tryDialIn(first.ns, "127.0.0.1:6379"); err == nil {
			return errors.Join(errors.New("its port still answers"), conn.Close())
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		return nil
	})
	p.podman("start", name)
	again := p.client(name)
	poll(t, 10*time.Second, "the daemon serves it again", func() error { return connects(again) })
}
