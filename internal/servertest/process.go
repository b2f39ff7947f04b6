// Package servertest runs real servers for tests: processes on loopback ports of
// their own, in a folder that is gone when the test ends, and the certificates
// they take to speak TLS. consultest and etcdtest say how their server is started
// and when it is ready. The function Nobody returns an
// address at which every connection is refused.
package servertest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// patience is how long a server may take to be ready.
	patience = 60 * time.Second
	// attempts is how often Choose tries other ports.
	attempts = 5
)

// Process is a server that can be stopped and started again.
type Process struct {
	// Name is the server's, for messages.
	Name string
	// Ready returns nil once the server can be used.
	Ready func(context.Context) error

	binary  string
	args    []string
	logPath string
	process *exec.Cmd
	exited  chan struct{} // closed when process is gone
}

// New finds the program, in variable or else by name in PATH, and makes a Process
// of it that does not run yet. It is stopped when the test ends, and the end of its
// log is printed if the test failed. part is scripts/setup's, to name in a message.
func New(t testing.TB, name, program, variable, part string) *Process {
	t.Helper()
	binary, err := exec.LookPath(cmp.Or(os.Getenv(variable), program))
	if err != nil {
		t.Fatalf("no %s to test with: %v; run scripts/setup %s, or set %s to the binary", name, err, part, variable)
	}
	p := &Process{Name: name, binary: binary, logPath: filepath.Join(t.TempDir(), program+".log")}
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, p.LogEnd())
		}
	})
	return p
}

// Dir is the folder for the server's files.
func (p *Process) Dir() string { return filepath.Dir(p.logPath) }

// Choose starts the server with the arguments that choose makes of free ports, with
// others if somebody took one meanwhile, and waits until it is ready.
func (p *Process) Choose(t testing.TB, ports int, choose func(ports []string) (args []string)) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		p.args = choose(FreePorts(t, ports))
		err := p.start(t.Context())
		if err == nil {
			err = p.await(t.Context())
		}
		if err == nil {
			return
		}
		if attempt == attempts || !errors.Is(err, errEnded) || !bytes.Contains(bytes.ToLower(p.LogEnd()), []byte("address already in use")) {
			t.Fatal(err)
		}
	}
}

// Start starts the server with these arguments and does not wait for it.
func (p *Process) Start(t testing.TB, args ...string) {
	t.Helper()
	p.args = args
	if err := p.start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Await waits until the server is ready.
func (p *Process) Await(t testing.TB) {
	t.Helper()
	if err := p.await(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Restart runs the server again with the arguments it had, and waits until it is
// ready.
func (p *Process) Restart(t testing.TB) {
	t.Helper()
	p.Stop(t)
	p.Start(t, p.args...)
	p.Await(t)
}

// Stop ends the server and waits for it. It is killed, as a crash would: what it
// has promised to keep, it must keep then too.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if p.process == nil {
		return
	}
	if err := p.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stopping %s: %v", p.Name, err)
	}
	<-p.exited
	p.process = nil
}

// Freeze stops the server where it is, with its connections open, until the
// returned function is called.
func (p *Process) Freeze(t testing.TB) (thaw func()) {
	t.Helper()
	signal := func(s syscall.Signal) {
		if err := p.process.Process.Signal(s); err != nil {
			t.Errorf("%v to %s: %v", s, p.Name, err)
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }
}

// PID is the running server's.
func (p *Process) PID() int { return p.process.Process.Pid }

var errEnded = errors.New("it ended at once")

func (p *Process) start(ctx context.Context) error {
	log, err := os.Create(p.logPath)
	if err != nil {
		return err
	}
	defer log.Close()                                                               // the child has its own descriptor
	process := exec.CommandContext(context.WithoutCancel(ctx), p.binary, p.args...) // Stop ends it
	process.Stdout, process.Stderr = log, log
	process.Dir = p.Dir()
	if err := process.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	p.process, p.exited = process, exited
	go reap(process, exited)
	return nil
}

// reap waits for process, and then closes exited.
func reap(process *exec.Cmd, exited chan<- struct{}) {
	defer close(exited)
	_ = process.Wait()
}

// Goroutines are those of Processes, for a test that looks for leaks and restarts one
// meanwhile.
func Goroutines() []goleak.Option {
	return []goleak.Option{goleak.IgnoreAnyFunction("github.com/ambassadord/ambassadord/internal/servertest.reap")}
}

func (p *Process) await(ctx context.Context) error {
	deadline := time.Now().Add(patience)
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := p.Ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			p.process = nil
			return fmt.Errorf("starting %s: %w", p.Name, errEnded)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %v: %w", p.Name, patience, err)
		}
	}
}

// LogEnd is the last of what the server printed.
func (p *Process) LogEnd() []byte {
	text, err := os.ReadFile(p.logPath)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-4096):]
}

// FreePorts finds n different ports that are free for TCP and UDP alike. They are
// below the range from which the kernel gives out ports, so that no connection
// made meanwhile takes one.
func FreePorts(t testing.TB, n int) []string {
	t.Helper()
	var (
		ports  []string
		listen net.ListenConfig
	)
	for attempt := 0; len(ports) < n; attempt++ {
		if attempt > 1000 {
			t.Fatal("no free ports on 127.0.0.1")
		}
		port := strconv.Itoa(20000 + rand.N(12000))
		tcp, err := listen.Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			continue
		}
		defer tcp.Close() // held until all are found
		udp, err := listen.ListenPacket(t.Context(), "udp", tcp.Addr().String())
		if err != nil {
			continue
		}
		defer func() { _ = udp.Close() }()
		ports = append(ports, port)
	}
	return ports
}
