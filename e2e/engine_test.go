//go:build integration

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
)

// engine is a Docker engine of a test's own, which may be restarted: the machine's
// is shared. It has no bridge, so its containers have loopback alone, and it leaves
// them running when it stops.
type engine struct {
	t    *testing.T
	dir  string
	host *netlab.Lab // has its bridge, if it has one
	more []string    // options of dockerd
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{}
}

func startEngine(t *testing.T) *engine {
	t.Helper()
	return startEngineIn(t, nil)
}

// startEngineIn starts one with a bridge in the network namespace of host, which is its
// host. Its containers end with it, as they do by default. Without host it is startEngine.
// more are further options of dockerd.
func startEngineIn(t *testing.T, host *netlab.Lab, more ...string) *engine {
	t.Helper()
	// Its sockets are below, and a socket's path is at most 108 bytes long.
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountAllIn(dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	e := &engine{t: t, dir: dir, host: host, more: more}
	e.start()
	t.Cleanup(func() {
		select {
		case <-e.done: // a test that failed may have left it stopped, and containers with it
			e.start()
		default:
		}
		if ids := e.docker("ps", "-aq"); ids != "" {
			e.docker(append([]string{"rm", "-f"}, strings.Fields(ids)...)...)
		}
		e.stop()
	})
	return e
}

// unmountAllIn unmounts what an engine, or a runtime that it started, has left mounted in dir.
func unmountAllIn(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") { // proc_pid_mountinfo(5)
			_ = syscall.Unmount(fields[4], syscall.MNT_DETACH)
		}
	}
}

func (e *engine) endpoint() string { return "unix://" + filepath.Join(e.dir, "docker.sock") }

func (e *engine) start() {
	e.t.Helper()
	args := []string{"dockerd", "--host", e.endpoint(), "--data-root", filepath.Join(e.dir, "data"),
		"--exec-root", filepath.Join(e.dir, "exec"), "--pidfile", filepath.Join(e.dir, "pid")}
	if e.host == nil {
		// In a network namespace of its own: an engine without a bridge removes the
		// one that it finds.
		args = append(append([]string{"unshare", "--net"}, args...), "--bridge", "none", "--iptables=false", "--ip6tables=false", "--live-restore")
	} else {
		args = append(args, "--bip", "10.213.0.1/24")
		if os.Getenv("ENGINE") == "29-nft" { // scripts/engine says so: the backend is its engine's
			args = append(args, "--firewall-backend=nftables")
		}
	}
	args = append(args, e.more...)
	e.cmd = exec.Command(args[0], args[1:]...)
	e.cmd.Stdout, e.cmd.Stderr = &e.log, &e.log
	begin := e.cmd.Start
	if e.host != nil {
		begin = func() error { e.host.Do(e.t, e.cmd.Start); return nil }
	}
	if err := begin(); err != nil {
		e.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = e.cmd.Wait() }()
	e.done = done
	poll(e.t, time.Minute, "the engine answers", func() error {
		return exec.Command("docker", "-H", e.endpoint(), "info").Run()
	})
}

func (e *engine) stop() {
	e.t.Helper()
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		e.t.Error(err)
	}
	select {
	case <-e.done:
	case <-time.After(time.Minute):
		e.t.Errorf("the engine does not end; its log:\n%s", e.log.Bytes())
		_ = e.cmd.Process.Kill()
		<-e.done
	}
}

func (e *engine) docker(args ...string) string {
	e.t.Helper()
	return dockertest.Docker(e.t, append([]string{"-H", e.endpoint()}, args...)...)
}

// load has the engine have the tests' image, and returns its name.
func (e *engine) load() (image string) {
	e.t.Helper()
	archive := filepath.Join(e.t.TempDir(), "image.tar")
	image = dockertest.Image(e.t)
	dockertest.Docker(e.t, "save", "-o", archive, image)
	e.docker("load", "-i", archive)
	return image
}

// declaring starts a container that declares port 6379.
func (e *engine) declaring(image, target string) client {
	e.t.Helper()
	name := dockertest.Name(e.t)
	id := e.docker("run", "-d", "--network", "none", "--name", name, "-l", "connect.6379="+target, image)
	return client{name: name, ns: openNamespace(e.t, "/proc/"+e.docker("inspect", "-f", "{{.State.Pid}}", id)+"/ns/net")}
}

// TestEngineRestart takes the engine away and brings it back. Nothing that the
// daemon serves may depend on it meanwhile.
func TestEngineRestart(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	e := startEngine(t)
	image := e.load()
	d := start(t, "run", "--docker-host", e.endpoint())
	before := e.declaring(image, backend)
	d.attached(before.name)
	live := dialIn(t, before.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}

	e.stop()
	d.wait("that the engine is away", 20*time.Second, func(l line) bool { return l.str("level") == "WARN" && l.str("endpoint") == e.endpoint() })
	if err := errors.Join(pingPong(live), connects(before)); err != nil {
		t.Errorf("while the engine is away: %v", err)
	}
	e.start()
	after := e.declaring(image, backend)
	d.attached(after.name)
	if err := errors.Join(pingPong(live), connects(before), connects(after)); err != nil {
		t.Errorf("after the engine's return: %v", err)
	}

	// A hung engine is away just as well.
	if err := e.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pingPong(live), connects(before), connects(after)); err != nil {
		t.Errorf("while the engine hangs: %v", err)
	}
	if err := e.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
