//go:build integration

package e2e

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
)

// lateSocket leads to an engine's socket, if it is told to: an engine that starts again runs
// its containers before it answers, on a busy host for many seconds.
type lateSocket struct {
	path string

	mu    sync.Mutex
	open  chan struct{} // closed while it leads there
	conns map[net.Conn]bool
}

func newLateSocket(t *testing.T, to string) *lateSocket {
	t.Helper()
	s := &lateSocket{path: filepath.Join(filepath.Dir(to), "late.sock"), open: make(chan struct{}), conns: map[net.Conn]bool{}}
	listener, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	ended := make(chan struct{})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.carry(conn, to, ended) })
		}
	})
	t.Cleanup(func() {
		close(ended)
		listener.Close()
		s.shut()
		serving.Wait()
	})
	return s
}

func (s *lateSocket) carry(conn net.Conn, to string, ended <-chan struct{}) {
	defer conn.Close()
	s.mu.Lock()
	open := s.open
	s.conns[conn] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	}()
	select {
	case <-open:
	case <-ended:
		return
	}
	engine, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(engine, conn)
		engine.Close()
	}()
	_, _ = io.Copy(conn, engine)
}

// lead lets it lead to the engine.
func (s *lateSocket) lead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.open)
}

// shut cuts what it carries off, and lets the next wait.
func (s *lateSocket) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = make(chan struct{})
	for conn := range s.conns {
		conn.Close()
	}
}

// TestEngineRestartsItsContainers restarts an engine with which its containers end. Those
// that it starts again run before its API answers, in other namespaces and with one another's
// addresses. Each client wants one backend, and dials as soon as it runs.
func TestEngineRestartsItsContainers(t *testing.T) {
	const (
		backends, clients, restarts = 8, 4, 3
		// late is longer than whoever gives up after a while waits.
		late = 8 * time.Second
	)
	archive := filepath.Join(t.TempDir(), "image.tar")
	image := dockertest.Image(t)
	dockertest.Docker(t, "save", "-o", archive, image)
	host := netlab.New(t)
	e := startEngineIn(t, host)
	e.docker("load", "-i", archive)
	socket := newLateSocket(t, strings.TrimPrefix(e.endpoint(), "unix://"))
	socket.lead()
	args := []string{"-t", strconv.Itoa(e.cmd.Process.Pid), "-n", binary, "run", "--mode", "redirect", "--docker-host", "unix://" + socket.path,
		"--log-format", "json", "--log-level", "debug", "--default", "wait=50s", "--default", "timeout=50s"}
	web := func(i int) string { return fmt.Sprintf("web-%d", i) }
	listener := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", 8000+i) }
	for i := range backends {
		args = append(args, fmt.Sprintf("%s=docker://%s:80", listener(i), web(i)))
	}
	d := launch(t, exec.Command("nsenter", args...), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })

	always := []string{"run", "-d", "--restart", "always", "--stop-signal", "KILL"}
	for i := range backends {
		e.docker(append(always, "--name", web(i), "--hostname", web(i), image, "nc", "-ll", "-p", "80", "-e", "sh", "-c", "read line; hostname")...)
	}
	name := func(i int) string { return fmt.Sprintf("client-%d", i) }
	for i := range clients {
		ask := "/client -within 0 -patience 1m -want " + web(i) + " localhost:7000 >>/log 2>&1 || echo failed >>/log"
		e.docker(append(always, "--name", name(i), clientOption(t), "-l", "connect.7000=docker://"+web(i)+":80", image,
			"sh", "-c", "echo started >>/log; while :; do "+ask+"; sleep 0.05; done")...)
	}
	// served waits until each client's first dial after that many starts has ended.
	served := func(times int) {
		t.Helper()
		for i := range clients {
			poll(t, 2*time.Minute, fmt.Sprintf("%s is served after start %d", name(i), times), func() error {
				out, err := dockertest.Try(t, "-H", e.endpoint(), "exec", name(i), "cat", "/log")
				if err != nil {
					return err
				}
				if starts := strings.Split(out, "started\n")[1:]; len(starts) < times || strings.Count(starts[times-1], "\n") < 2 {
					return fmt.Errorf("%q", starts)
				}
				return nil
			})
		}
	}
	served(1)
	for i := range restarts {
		socket.shut()
		e.stop()
		e.start()
		answered := time.After(late)
		// Who dials while the daemon does not know yet what runs, is held.
		answers := make([]string, backends)
		var asking sync.WaitGroup
		for at := range backends {
			conn := host.Dial(t, listener(at))
			asking.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				fmt.Fprintln(conn, "who is it?")
				answer, err := io.ReadAll(conn)
				if answers[at] = strings.TrimSpace(string(answer)); err != nil {
					answers[at] += err.Error()
				}
			})
		}
		<-answered
		socket.lead()
		asking.Wait()
		for at, answer := range answers {
			if answer != web(at) {
				t.Errorf("restart %d: who wants %s is answered %q", i, web(at), answer)
			}
		}
		served(i + 2)
	}
	for i := range clients {
		out := e.docker("exec", name(i), "cat", "/log")
		if strings.Contains(out, "foreign answer") {
			t.Errorf("%s reached somebody else:\n%s", name(i), out)
		}
		for at, start := range strings.Split(out, "started\n")[1:] {
			// What was going on when the engine ended its backend may have failed; the first
			// dial after a start may not. The client says its own name first.
			lines := strings.Split(start, "\n")
			if len(lines) < 2 || lines[1] != web(i) {
				t.Errorf("%s, start %d: its first dial was answered %q", name(i), at, lines[:min(3, len(lines))])
			}
		}
	}
}
