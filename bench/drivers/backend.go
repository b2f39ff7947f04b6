package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const connections = 10

// serverKind is what sort of server a backend is.
type serverKind string

const (
	postgres serverKind = "PostgreSQL"
	redis    serverKind = "Redis"
	web      serverKind = "HTTP"
)

// question is what a check asks a backend, and what is in a good answer.
func (k serverKind) question() (send, expect string) {
	switch k {
	case postgres:
		return "\x00\x00\x00\x08\x04\xd2\x16\x2f", "N" // an SSLRequest, and that there is no TLS
	case redis:
		return "PING\r\n", "+PONG"
	case web:
	}
	return "GET / HTTP/1.0\r\n\r\n", " 200 "
}

const postgresFolder = "/usr/lib/postgresql"

func (k serverKind) needs() []string {
	needs := []string{"haproxy"}
	switch k {
	case postgres:
		return append(needs, postgresFolder)
	case redis:
		return append(needs, "redis-server")
	case web:
	}
	return needs
}

// childProcess is one that was started, with what it says.
type childProcess struct {
	args       []string
	credential *syscall.Credential
	dir        string

	cmd    *exec.Cmd
	log    *logbook
	exited chan struct{}
}

// logbook is what a process has said so far.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (p *childProcess) start() error {
	p.log, p.exited = &logbook{}, make(chan struct{})
	p.cmd = exec.Command(p.args[0], p.args[1:]...) //nolint:noctx // stop ends it
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.dir, p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: p.credential}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func(cmd *exec.Cmd, exited chan struct{}) { _ = cmd.Wait(); close(exited) }(p.cmd, p.exited)
	return nil
}

// signal sends a signal to the process and all that it has started, which may have groups of
// their own.
func (p *childProcess) signal(s syscall.Signal) {
	if p.cmd == nil {
		return
	}
	for _, pid := range append([]int{p.cmd.Process.Pid}, descendants(p.cmd.Process.Pid)...) {
		_ = syscall.Kill(pid, s)
	}
}

func descendants(pid int) []int {
	var all []int
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for word := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(word); err == nil {
			all = append(append(all, child), descendants(child)...)
		}
	}
	return all
}

// ended waits until the process has ended.
func (p *childProcess) ended(ctx context.Context) error {
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("it does not end: %w; it says: %.2000s", ctx.Err(), p.log)
	}
}

func (p *childProcess) stop() {
	if p.cmd != nil {
		p.signal(syscall.SIGKILL)
		<-p.exited
	}
}

// databaseServer is a server.
type databaseServer struct {
	childProcess
	kind serverKind
	addr string
}

func (b *driverBench) newBackend(ctx context.Context, k serverKind, dir string) (*databaseServer, error) {
	s := &databaseServer{kind: k, addr: freeAddr()}
	_, port, _ := net.SplitHostPort(s.addr)
	s.dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL has another user
		return nil, err
	}
	switch k {
	case postgres:
		programs, _ := filepath.Glob(filepath.Join(postgresFolder, "*", "bin"))
		u, err := user.Lookup("postgres")
		if err != nil || len(programs) == 0 {
			return nil, errors.Join(err, errors.New("PostgreSQL is not installed"))
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
		data := filepath.Join(dir, "data")
		if _, err := os.Stat(b.template()); err != nil {
			// A folder of its own: the daemon trusts none that belongs to another user.
			own := filepath.Dir(b.template())
			if err := errors.Join(os.MkdirAll(own, 0o755), os.Chown(own, uid, gid)); err != nil { //nolint:gosec // of PostgreSQL's user
				return nil, err
			}
			init := exec.CommandContext(ctx, filepath.Join(programs[0], "initdb"), "-A", "trust", "-U", "postgres", "--no-sync", b.template())
			init.Dir, init.SysProcAttr = own, &syscall.SysProcAttr{Credential: s.credential}
			if out, err := init.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("initdb: %w: %s", err, out)
			}
		}
		if out, err := exec.CommandContext(ctx, "cp", "-a", b.template(), data).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		s.args = []string{filepath.Join(programs[0], "postgres"), "-D", data, "-p", port, "-h", "127.0.0.1", "-F", "-c", "unix_socket_directories="}
	case redis:
		s.args = []string{"redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", ""}
	case web:
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		s.args = []string{self, "backend", s.addr}
	}
	return s, s.restart(ctx)
}

func (b *driverBench) template() string { return filepath.Join(b.dir, "postgres", "template") }

// restart starts the server, after it has ended, and waits until it answers.
func (s *databaseServer) restart(ctx context.Context) error {
	if s.cmd != nil {
		if err := s.ended(ctx); err != nil {
			return err
		}
	}
	if err := s.start(); err != nil {
		return err
	}
	return until(ctx, func() error { return s.answers() }, s.log)
}

func (s *databaseServer) answers() error {
	select {
	case <-s.exited: // another one may answer
		return errors.New("it has ended")
	default:
	}
	conn, err := net.DialTimeout("tcp", s.addr, time.Second) //nolint:noctx // bounded
	if err != nil {
		return err
	}
	defer conn.Close()
	send, expect := s.kind.question()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, send); err != nil {
		return err
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	if !strings.Contains(string(answer[:n]), expect) {
		return fmt.Errorf("it answers %q, %w", answer[:n], err)
	}
	return nil
}

// until tries until it succeeds, for as long as a server may take to start.
func until(ctx context.Context, try func() error, log *logbook) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%w; it says: %.2000s", err, log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freeAddr is an address at which nobody listens, below the ports that connections come from.
func freeAddr() string {
	for port := nextPort; ; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // at once
		if err == nil {
			l.Close()
			nextPort = port + 1
			return l.Addr().String()
		}
	}
}

var nextPort = 21000

// serveHTTP is a backend of kind web.
func serveHTTP(addr string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(300 * time.Millisecond)
		_, _ = io.WriteString(w, "ok")
	})
	server := http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: time.Minute}
	return server.ListenAndServe()
}
