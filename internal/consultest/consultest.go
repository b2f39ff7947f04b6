// Package consultest runs a real Consul server for tests: one agent in
// development mode on loopback ports of its own, in memory, gone when the test
// ends.
package consultest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

const (
	// startPatience is how long an agent may take to elect itself.
	startPatience = 60 * time.Second
	// startAttempts is how often Start tries other ports.
	startAttempts = 5
)

// Server is a Consul agent.
type Server struct {
	// HTTPAddr and DNSAddr are host:port, and stay the same over a Restart.
	HTTPAddr, DNSAddr string

	binary  string
	args    []string
	logPath string
	process *exec.Cmd
	exited  chan struct{} // closed when process is gone
}

// Start runs an agent and waits until it has a leader. extra are more arguments
// of "consul agent". The binary is $AMBASSADORD_CONSUL, else consul in PATH.
func Start(t testing.TB, extra ...string) *Server {
	t.Helper()
	name := cmp.Or(os.Getenv("AMBASSADORD_CONSUL"), "consul")
	binary, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("no Consul to test with: %v; run make setup, or set AMBASSADORD_CONSUL to the binary", err)
	}
	s := &Server{binary: binary, logPath: filepath.Join(t.TempDir(), "consul.log")}
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("the end of Consul's log:\n%s", s.logEnd())
		}
	})
	for attempt := 1; ; attempt++ {
		s.choosePorts(t, extra)
		err := s.run(t.Context())
		if err == nil {
			return s
		}
		if attempt == startAttempts || !errors.Is(err, errEnded) || !bytes.Contains(s.logEnd(), []byte("address already in use")) {
			t.Fatal(err)
		}
	}
}

func (s *Server) choosePorts(t testing.TB, extra []string) {
	t.Helper()
	ports := freePorts(t, 5)
	s.HTTPAddr = net.JoinHostPort("127.0.0.1", ports[0])
	s.DNSAddr = net.JoinHostPort("127.0.0.1", ports[1])
	s.args = append([]string{
		"agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1",
		"-data-dir=" + filepath.Join(filepath.Dir(s.logPath), "data"),
		"-http-port=" + ports[0], "-dns-port=" + ports[1], "-server-port=" + ports[2],
		"-serf-lan-port=" + ports[3], "-serf-wan-port=" + ports[4],
		"-https-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
		"-hcl=disable_update_check = true",
	}, extra...)
}

// Stop ends the agent and waits for it. It is killed: in development mode it has
// nothing to save, and asked politely it sometimes hangs after its last log line.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stopping Consul: %v", err)
	}
	<-s.exited
	s.process = nil
}

// Restart runs the agent again, empty, on the same ports, and waits until it has a
// leader.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	if err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var errEnded = errors.New("it ended at once")

// run starts the process and waits until it is ready.
func (s *Server) run(ctx context.Context) error {
	log, err := os.Create(s.logPath)
	if err != nil {
		return err
	}
	defer log.Close()                                                               // the child has its own descriptor
	process := exec.CommandContext(context.WithoutCancel(ctx), s.binary, s.args...) // Stop ends it
	process.Stdout, process.Stderr = log, log
	process.Dir = filepath.Dir(s.logPath)
	if err := process.Start(); err != nil {
		return fmt.Errorf("starting Consul: %w", err)
	}
	exited := make(chan struct{})
	s.process, s.exited = process, exited
	go func() {
		defer close(exited)
		_ = process.Wait()
	}()

	deadline := time.Now().Add(startPatience)
	for {
		err := s.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			s.process = nil
			return fmt.Errorf("starting Consul: %w", errEnded)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("consul is not ready after %v: %w", startPatience, err)
		}
	}
}

// ready asks for a leader and for the agent's own node in the catalog: before the
// latter is there, what a test registers may be rejected.
func (s *Server) ready(ctx context.Context) error {
	for _, path := range []string{"/v1/status/leader", "/v1/catalog/nodes"} {
		body, err := s.get(ctx, path)
		if err != nil {
			return err
		}
		switch string(bytes.TrimSpace(body)) {
		case `""`:
			return errors.New("no leader")
		case `[]`:
			return errors.New("no node")
		}
	}
	return nil
}

func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.HTTPAddr+path, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // nothing outlives the question
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.Header.Get("X-Consul-Default-ACL-Policy") == "deny" { // we may not see the catalog
		return nil, err
	}
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, response.Status)
	}
	return body, err
}

func (s *Server) logEnd() []byte {
	text, err := os.ReadFile(s.logPath)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-4096):]
}

// freePorts finds n different ports that are free for TCP and UDP alike. They are
// below the range from which the kernel gives out ports, so that no connection
// made meanwhile takes one; Start tries others if another test did.
func freePorts(t testing.TB, n int) []string {
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
