package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// world is one client, its backends, and what is in between.
type world struct {
	bench    *driverBench
	dir      string
	path     proxyKind
	backends []*databaseServer
	front    *childProcess // the daemon, or HAProxy; nil where there is none
	config   string
	others   []*childProcess
	client   *client
}

// list is the file that names the target's backends.
func (w *world) list() string { return filepath.Join(w.dir, "list") }

func (b *driverBench) newWorld(ctx context.Context, d driver, e event, p proxyKind) (_ *world, err error) {
	w := &world{bench: b, path: p}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	if w.dir, err = os.MkdirTemp(b.dir, "world"); err != nil {
		return nil, err
	}
	if err := os.Chmod(w.dir, 0o755); err != nil { //nolint:gosec // PostgreSQL has another user
		return nil, err
	}
	for i := range 2 {
		s, err := b.newBackend(ctx, d.kind, filepath.Join(w.dir, strconv.Itoa(i)))
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", d.kind, err)
		}
		w.backends = append(w.backends, s)
	}
	at := w.backends[0].addr
	switch p {
	case through:
		at, err = w.startDaemon(ctx, e.options)
	case haproxy:
		at, err = w.startHAProxy(ctx)
	case direct:
	}
	if err != nil {
		return nil, err
	}
	if d.name == "nginx" {
		if at, err = w.startNginx(ctx, at); err != nil {
			return nil, err
		}
	}
	w.client, err = newClient(d.command(b, at))
	return w, err
}

func (w *world) stop() {
	if w.client != nil {
		w.client.stop()
	}
	for _, p := range append(w.others, w.front) {
		if p != nil {
			p.stop()
		}
	}
	for _, s := range w.backends {
		s.stop()
	}
	os.RemoveAll(w.dir)
}

// startDaemon starts ambassadord with one listener, and returns its address.
func (w *world) startDaemon(ctx context.Context, options string) (string, error) {
	at := freeAddr()
	both := []string{w.backends[0].addr, w.backends[1].addr}
	if options != "check" {
		both = both[:1]
	}
	if err := os.WriteFile(w.list(), []byte(strings.Join(both, "\n")+"\n"), 0o600); err != nil {
		return "", err
	}
	text := fmt.Sprintf("mode: []\ndrain-timeout: 200ms\nlisten:\n  - address: %s\n    target: file://%s\n    policy: first\n", at, w.list())
	switch options {
	case "check":
		send, expect := w.backends[0].kind.question()
		text += fmt.Sprintf("    check: tcp\n    check-send: '%s'\n    check-expect: '%s'\n    check-interval: %s\n    check-timeout: %[3]s\n", escaped(send), expect, checkedEvery)
	case "drain":
		text += "    on-removal: drain\n    drain-after: 100ms\n"
	}
	w.config = filepath.Join(w.dir, "config.yml")
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		return "", err
	}
	return at, w.runDaemon(ctx)
}

// escaped writes a text as options take it.
func escaped(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func (w *world) runDaemon(ctx context.Context, more ...string) error {
	daemon, err := filepath.Abs(w.bench.daemon)
	if err != nil {
		return err
	}
	p := &childProcess{dir: w.dir, args: append([]string{daemon, "run", "--config", w.config, "--run-dir", filepath.Join(w.dir, "run")}, more...)}
	if err := p.start(); err != nil {
		return err
	}
	if w.front != nil {
		w.others = append(w.others, w.front)
	}
	w.front = p
	return until(ctx, func() error {
		if p.log.count("msg=ready") == 0 {
			return errors.New("the daemon is not ready")
		}
		return nil
	}, p.log)
}

func (w *world) startHAProxy(ctx context.Context) (string, error) {
	at := freeAddr()
	send, expect := w.backends[0].kind.question()
	text := fmt.Sprintf("defaults\n mode tcp\n timeout connect 2s\n timeout client 1h\n timeout server 1h\n timeout check %[1]dms\n"+
		"listen l\n bind %[2]s\n option tcp-check\n tcp-check connect\n tcp-check send-binary %[3]s\n tcp-check expect rstring %[4]s\n"+
		" server a %[5]s check inter %[1]dms fall 3 rise 2 on-marked-down shutdown-sessions\n server b %[6]s check inter %[1]dms fall 3 rise 2 backup\n",
		checkedEvery.Milliseconds(), at, hex.EncodeToString([]byte(send)), strings.ReplaceAll(strings.TrimSpace(strings.TrimPrefix(expect, "+")), " ", "."), w.backends[0].addr, w.backends[1].addr)
	config := filepath.Join(w.dir, "haproxy.cfg")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", err
	}
	w.front = &childProcess{dir: w.dir, args: []string{"haproxy", "-db", "-f", config}}
	return at, w.startAt(ctx, w.front, at)
}

func (w *world) startNginx(ctx context.Context, upstream string) (string, error) {
	at := freeAddr()
	own := filepath.Join(w.dir, "nginx")         // nginx gives it to its own user, whom the daemon would not trust
	if err := os.Mkdir(own, 0o755); err != nil { //nolint:gosec // likewise
		return "", err
	}
	text := fmt.Sprintf("daemon off; pid %[1]s/pid; error_log stderr; worker_processes 1;\nevents {}\nhttp { access_log off;\n"+
		"client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;\n"+
		"upstream u { server %[2]s; keepalive %[4]d; }\nserver { listen %[3]s; location / { proxy_pass http://u; proxy_http_version 1.1;\n"+
		"proxy_set_header Connection ''; proxy_connect_timeout 2s; proxy_read_timeout 2s; } } }\n", own, upstream, at, connections)
	config := filepath.Join(w.dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", err
	}
	p := &childProcess{dir: w.dir, args: []string{"nginx", "-e", "stderr", "-c", config}}
	w.others = append(w.others, p)
	return at, w.startAt(ctx, p, at)
}

// startAt starts a proxy and waits until an HTTP server, or whatever is behind it, answers there.
func (w *world) startAt(ctx context.Context, p *childProcess, at string) error {
	if err := p.start(); err != nil {
		return err
	}
	s := &databaseServer{childProcess: *p, kind: w.backends[0].kind, addr: at}
	return until(ctx, s.answers, p.log)
}

// said waits until the daemon has logged so many connections with a reason; a client may have
// fewer, so it waits no longer than that takes.
func (w *world) said(ctx context.Context, reason string, times int) error {
	return w.await(ctx, func() bool { return w.front.log.count("reason="+reason) >= times })
}

func (w *world) await(ctx context.Context, is func() bool) error {
	deadline := time.Now().Add(5 * time.Second)
	for !is() {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("it did not come to that; the proxy says: %.3000s", w.front.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// marked waits until the proxy has found the first backend dead, and has done what it does then.
func (w *world) marked(ctx context.Context) error {
	if w.path == haproxy {
		return w.await(ctx, func() bool { return w.front.log.count("l/a is DOWN") > 0 })
	}
	return w.said(ctx, "endpoint_unhealthy", connections)
}

// move has the target lead to the second backend, and waits until the daemon knows.
func (w *world) move(ctx context.Context) error {
	next := w.list() + ".next"
	if err := os.WriteFile(next, []byte(w.backends[1].addr+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, w.list()); err != nil {
		return err
	}
	return w.await(ctx, func() bool {
		s := &databaseServer{childProcess: *w.front, kind: w.backends[0].kind, addr: w.address()}
		_ = s.answers()
		return w.front.log.count("endpoint="+w.backends[1].addr) > 0
	})
}

// address is the listener's.
func (w *world) address() string {
	text, _ := os.ReadFile(w.config)
	_, after, _ := strings.Cut(string(text), "address: ")
	addr, _, _ := strings.Cut(after, "\n")
	return addr
}

// takeOver starts another daemon, which takes over.
func (w *world) takeOver(ctx context.Context) error { return w.runDaemon(ctx, "--takeover") }

// restart stops what the client dials as its supervisor would, and starts it anew.
func (w *world) restart(ctx context.Context) error {
	if w.path == direct {
		s := syscall.SIGTERM
		if w.backends[0].kind == postgres {
			s = syscall.SIGINT // fast: SIGTERM waits for the clients
		}
		if err := w.backends[0].cmd.Process.Signal(s); err != nil {
			return err
		}
		return w.backends[0].restart(ctx)
	}
	if err := w.front.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := w.front.ended(ctx); err != nil {
		return err
	}
	return w.runDaemon(ctx)
}

// client is a worker.
type client struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errors logbook
}

// requestCounts is what became of a client's requests.
type requestCounts struct {
	Requests int    `json:"requests"`
	Failed   int    `json:"failed"`
	Slowest  int64  `json:"slowest"` // milliseconds
	Error    string `json:"error"`
}

func newClient(args []string) (*client, error) {
	c := &client{cmd: exec.Command(args[0], args[1:]...)} //nolint:noctx // stop ends it
	c.cmd.Stderr = &c.errors
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, c.cmd.Start()
}

// round has the client make its requests.
func (c *client) round(what string) (o requestCounts, err error) {
	if _, err := io.WriteString(c.in, what+"\n"); err != nil {
		return o, fmt.Errorf("the client: %w; it says: %.1000s", err, &c.errors)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		return o, fmt.Errorf("the client: %w; it says: %.1000s", err, &c.errors)
	}
	return o, json.Unmarshal([]byte(line), &o)
}

func (c *client) stop() {
	if c.cmd.Process != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}
