//go:build integration

package registries

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
)

// engine is a Docker engine of a test's own on a host of its own, with a bridge there.
type engine struct {
	t       testing.TB // all of its cells'
	host    *netlab.Lab
	dir     string
	socket  string
	options []string
	image   string
	swarm   bool
	cmd     *exec.Cmd
	exited  chan struct{}
}

// newEngine starts an engine that listens at socket, or at one of its own if that is "". options
// are dockerd's. It is stopped when the test ends.
func newEngine(t testing.TB, host *netlab.Lab, socket string, options ...string) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	if socket == "" {
		socket = filepath.Join(dir, "docker.sock")
	}
	e := &engine{t: t, host: host, dir: dir, socket: socket, options: options}
	t.Cleanup(func() {
		unmountIn(dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	version, err := exec.Command("dockerd", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(version), " 20.10.") { // else its ID would be that of all engines of this machine
		config := filepath.Join(dir, "daemon.json")
		if err := os.WriteFile(config, fmt.Appendf(nil, `{"deprecated-key-path": %q}`, filepath.Join(dir, "key.json")), 0o600); err != nil {
			t.Fatal(err)
		}
		e.options = append(e.options, "--config-file", config)
	}
	e.start(t)
	t.Cleanup(func() {
		select {
		case <-e.exited:
			e.start(t)
		default:
		}
		if ids := e.docker(t, "ps", "-aq"); ids != "" {
			_, _ = dockertest.Try(t, append([]string{"-H", e.endpoint(), "rm", "-f"}, strings.Fields(ids)...)...) // tasks come again
		}
		e.stop(t)
	})
	e.image = dockertest.ImageAt(t, e.endpoint())
	return e
}

// unmountIn unmounts what an engine has left mounted in dir.
func unmountIn(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") { // proc_pid_mountinfo(5)
			_ = syscall.Unmount(fields[4], syscall.MNT_DETACH)
		}
	}
}

func (e *engine) endpoint() string { return "unix://" + e.socket }

func (e *engine) docker(t testing.TB, args ...string) string {
	t.Helper()
	return dockertest.Docker(t, append([]string{"-H", e.endpoint()}, args...)...)
}

// start returns once the engine answers.
func (e *engine) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := []string{
		"--host", e.endpoint(), "--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"),
		"--pidfile", filepath.Join(e.dir, "pid"), "--bip", "10.213.0.1/24",
	}
	e.cmd = exec.Command("dockerd", append(args, e.options...)...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.host.Do(t, e.cmd.Start)
	cmd, exited := e.cmd, make(chan struct{})
	go func() { defer close(exited); _ = cmd.Wait() }()
	e.exited = exited
	retry(t, "the engine's first answer", func(ctx context.Context) error {
		select {
		case <-exited:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("the engine has ended: %s", text[max(0, len(text)-2000):])
		default:
		}
		return exec.CommandContext(ctx, "docker", "-H", e.endpoint(), "version").Run()
	})
}

// kill ends the engine as a crash would: its containers run on until it is started again. Its
// containerd is killed by the kernel with it; where process 1 does not reap that, the next engine
// would take what is left of it for one that runs.
func (e *engine) kill(t testing.TB) {
	e.end(t, syscall.SIGKILL)
	if err := os.Remove(filepath.Join(e.dir, "exec", "containerd", "containerd.pid")); err != nil {
		t.Error(err)
	}
}

// stop ends the engine, and it its containers.
func (e *engine) stop(t testing.TB) { e.end(t, syscall.SIGTERM) }

func (e *engine) end(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := e.cmd.Process.Signal(signal); err != nil {
		t.Errorf("%v to the engine: %v", signal, err)
	}
	select {
	case <-e.exited:
	case <-time.After(time.Minute):
		t.Errorf("the engine does not end at %v", signal)
		_ = e.cmd.Process.Kill()
		<-e.exited
	}
}

// serving are the arguments of a container that answers with the start of its own ID. It is
// started again whenever it ends, by the engine that starts again as well.
func (e *engine) serving(options ...string) []string {
	args := append([]string{"run", "-d", "--restart", "always", "--stop-signal", "KILL"}, options...)
	return append(append(args, e.image), answering...)
}

var answering = []string{"sh", "-c", "hostname >/www/index.html; exec httpd -f -p 80 -h /www"}

// populate starts what is served, and strangers beside it.
func (e *engine) populate(t testing.TB, swarm bool) {
	t.Helper()
	for i := range 3 {
		e.docker(t, e.serving("--name", "other-"+strconv.Itoa(i))...)
	}
	e.renew(t, byName)
	e.renew(t, byLabel)
	if e.swarm = swarm; swarm {
		e.docker(t, "swarm", "init", "--advertise-addr", "127.0.0.1")
		e.docker(t, "network", "create", "--driver", "overlay", "front")
		e.docker(t, e.serving("--name", "impostor", "--label", "com.docker.swarm.service.name=tasks")...)
		e.docker(t, append([]string{
			"service", "create", "--detach", "--quiet", "--no-resolve-image", "--stop-signal", "KILL", "--restart-delay", "0s",
			"--name", "tasks", "--network", "front", e.image,
		}, answering...)...)
		e.task(t, "")
	}
}

// current is the ID of the container of a column's target.
func (e *engine) current(t testing.TB, column string) (id string) {
	t.Helper()
	switch column {
	case byName:
		return e.docker(t, "ps", "-q", "--no-trunc", "--filter", "name=^web$")
	case byLabel:
		return e.docker(t, "ps", "-q", "--no-trunc", "--filter", "label=lab=app")
	}
	return e.task(t, "")
}

// renew makes another container for a column's target, and returns its ID once it runs; "" for a
// task of an engine that is in no swarm.
func (e *engine) renew(t testing.TB, column string) (id string) {
	t.Helper()
	switch column {
	case byName:
		_, _ = dockertest.Try(t, "-H", e.endpoint(), "rm", "-f", "web")
		return e.docker(t, e.serving("--name", "web")...)
	case byLabel:
		_, _ = dockertest.Try(t, "-H", e.endpoint(), "rm", "-f", "app")
		return e.docker(t, e.serving("--name", "app", "--label", "lab=app")...)
	}
	if !e.swarm {
		return ""
	}
	before := e.task(t, "")
	e.docker(t, "rm", "-f", before)
	return e.task(t, before)
}

// task waits for the one task of the service to run in another container than before, and returns
// that.
func (e *engine) task(t testing.TB, before string) (id string) {
	t.Helper()
	retry(t, "a task", func(context.Context) error {
		ids := strings.Fields(e.docker(t, "ps", "-q", "--no-trunc", "--filter", "is-task=true", "--filter", "status=running"))
		if len(ids) != 1 || ids[0] == before {
			return fmt.Errorf("tasks %v, want one other than %q", ids, before)
		}
		id = ids[0]
		return nil
	})
	return id
}

// addresses are those of the host's interfaces.
func (e *engine) addresses() (addrs []net.Addr, err error) {
	doErr := e.host.NS().Do(func() error { addrs, err = net.InterfaceAddrs(); return nil })
	if err == nil {
		err = doErr
	}
	return addrs, err
}

// socketRelay passes on what comes to the socket at path.
func socketRelay(t testing.TB, path, backend string) *relay {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // by then it may be another's
	r := startRelay(t)
	r.addr = path
	r.serve(t, listener, func() (net.Conn, error) { return net.Dial("unix", backend) })
	return r
}

// engineFault makes something happen to an engine, of which the client sees the socket at path.
// undo ends it, returns once the engine can be asked again, and says which engine that is.
type engineFault struct {
	relayed bool // path leads to a relay
	happen  func(t testing.TB, e *engine, path string, r *relay) (undo func(testing.TB) *engine)
}

var engineFaultsOf = map[string]engineFault{
	"stopped":       {happen: killed},
	"restarted":     {happen: killed},
	"live-restored": {happen: killed},
	"frozen": {happen: func(t testing.TB, e *engine, _ string, _ *relay) func(testing.TB) *engine {
		signal := func(s syscall.Signal) {
			if err := e.cmd.Process.Signal(s); err != nil {
				t.Error(err)
			}
		}
		signal(syscall.SIGSTOP)
		return func(testing.TB) *engine { signal(syscall.SIGCONT); return e }
	}},
	"restored": {happen: func(t testing.TB, e *engine, _ string, _ *relay) func(testing.TB) *engine {
		ids := strings.Fields(e.docker(t, "ps", "-q"))
		processes := strings.Fields(e.docker(t, append([]string{"inspect", "-f", "{{.State.Pid}}"}, ids...)...))
		e.kill(t)
		return func(t testing.TB) *engine {
			for _, p := range processes { // or both engines would give their addresses to somebody
				endProcess(t, p)
			}
			other := newEngine(t, e.host, e.socket)
			other.populate(t, false) // the overlay networks of two swarms do not go with one host
			return other
		}
	}},
	"slow": {relayed: true, happen: func(_ testing.TB, e *engine, _ string, r *relay) func(testing.TB) *engine {
		r.slow.Store(true)
		return func(testing.TB) *engine { r.slow.Store(false); return e }
	}},
	"half": {relayed: true, happen: func(t testing.TB, e *engine, _ string, r *relay) func(testing.TB) *engine {
		r.half.Store(300)
		e.docker(t, "restart", "-t", "0", "other-0") // or nothing is said at all
		return func(testing.TB) *engine { r.half.Store(0); return e }
	}},
	"moved": {relayed: true, happen: func(t testing.TB, e *engine, path string, r *relay) func(testing.TB) *engine {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		r.mute.Store(true)
		return func(t testing.TB) *engine { socketRelay(t, path, e.socket); return e }
	}},
}

// endProcess ends a container's process and waits for that.
func endProcess(t testing.TB, pid string) {
	t.Helper()
	process, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(process, syscall.SIGKILL)
	retry(t, "the end of process "+pid, func(context.Context) error {
		if err := syscall.Kill(process, 0); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
}

func killed(t testing.TB, e *engine, _ string, _ *relay) func(testing.TB) *engine {
	e.kill(t)
	return func(t testing.TB) *engine { e.start(t); return e }
}

// columnsOf are the columns of the Docker engine in which a fault has a cell to try.
func columnsOf(fault string) (columns []string, cell Cell) {
	docker := Registries[slices.IndexFunc(Registries, func(r Registry) bool { return r.Name == "Docker" })]
	for _, c := range docker.Columns {
		if of := c.Cells[fault]; of.Promise != Nothing {
			columns, cell = append(columns, c.Name), of
		}
	}
	return columns, cell
}
