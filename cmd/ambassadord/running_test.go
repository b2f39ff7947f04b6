package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/status"
)

// program is this test's binary, as the command that TestMain makes of it.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"ambassadord"}, args...)
	return cmd
}

// said is what a command printed, and how it ended.
func said(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	cmd := program(t, args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	_ = cmd.Run() // the code says it
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// host is where daemons of a test run: a folder, a port, and an endpoint that echoes.
type testHost struct{ folder, listen, endpoint string }

func (h testHost) socket() string { return filepath.Join(h.folder, "admin.sock") }

func newTestHost(t *testing.T) testHost {
	t.Helper()
	folder, err := os.MkdirTemp("/tmp", "running-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	return testHost{folder, free.Addr().String(), echo.Addr().String()}
}

// start starts a daemon with one listener, and returns when it is ready.
func (h testHost) start(t *testing.T, flags ...string) (*exec.Cmd, *daemontest.Log) {
	t.Helper()
	log := &daemontest.Log{}
	args := append([]string{
		"run", "--admin", h.socket(), "--run-dir", filepath.Join(h.folder, "run"), "--keep-connections=false", "--docker-host", "unix:///nonexistent.sock",
	}, flags...)
	cmd := program(t, append(args, h.listen+"="+h.endpoint)...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // unless it has ended
	log.Wait(t, "msg=ready")
	return cmd, log
}

// server is the process that serves a Unix socket.
func serverOf(t *testing.T, path string) int {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cred *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return int(cred.Pid)
}

// TestStatusAndConnections asks a real daemon with a connection through it.
func TestStatusAndConnections(t *testing.T) {
	h := newTestHost(t)
	h.start(t)
	conn, err := net.Dial("tcp", h.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	out, errs, code := said(t, "status", "--admin", h.socket())
	if code != exitOK || !strings.HasPrefix(out, versionText()+": ready\n") || !strings.Contains(out, h.listen) || !strings.Contains(out, "connections: 1") || !strings.Contains(out, h.endpoint) {
		t.Errorf("status ends with %d: %s%s", code, out, errs)
	}
	out, errs, code = said(t, "status", "--admin", h.socket(), "-o", "json")
	var v status.View
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitOK || !v.Daemon.Ready || len(v.Connections) != 1 || v.Connections[0].BytesUp != 5 {
		t.Errorf("status -o json ends with %d (%v): %s%s", code, err, out, errs)
	}
	source := conn.LocalAddr().String()
	for filter, want := range map[string]bool{"--limit=5": true, "--target=" + h.endpoint: true, "--endpoint=127.0.0.1": true, "--endpoint=127.0.0.2": false, "--client=nobody": false} {
		out, errs, code = said(t, "connections", "--admin", h.socket(), filter)
		if code != exitOK || strings.Contains(out, source) != want || !want && !strings.Contains(out, "no such connection") {
			t.Errorf("connections %s ends with %d: %s%s", filter, code, out, errs)
		}
	}
	out, _, code = said(t, "connections", "--admin", h.socket(), "-o", "json")
	if code != exitOK || !strings.Contains(out, `"total":1,"connections":[{`) {
		t.Errorf("connections -o json ends with %d: %s", code, out)
	}
}

// follow starts a command that follows events, and returns what it has said so far.
func follow(t *testing.T, h testHost, args ...string) (out, errs *daemontest.Log) {
	t.Helper()
	out, errs = &daemontest.Log{}, &daemontest.Log{}
	cmd := program(t, append([]string{"events", "--admin", h.socket(), "-f"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // when the test's context has ended
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exitOK {
			t.Errorf("events -f ends with %d: %s", code, errs)
		}
	})
	return out, errs
}

// TestEventsCommand lists and follows what a daemon tells of, and goes on with the one that takes over, and with
// the one that is started after the end of that.
func TestEventsCommand(t *testing.T) {
	h := newTestHost(t)
	old, _ := h.start(t)
	out, errs, code := said(t, "events", "--admin", h.socket())
	if code != exitOK || !strings.Contains(out, " INFO  listening address="+h.listen) || !strings.Contains(out, " INFO  ready ") || errs != "" {
		t.Errorf("events ends with %d: %s%s", code, out, errs)
	}
	out, _, code = said(t, "events", "--admin", h.socket(), "--limit=1", "--message=listening", "--since=1h", "-o", "json")
	var e status.Event
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != exitOK || e.Message != "listening" || !strings.Contains(string(e.Fields), h.listen) {
		t.Errorf("events -o json ends with %d (%v): %s", code, err, out)
	}
	for _, args := range [][]string{{"--limit=0"}, {"--since=-1m"}, {"-o", "xml"}} {
		if _, errs, code := said(t, append([]string{"events", "--admin", h.socket()}, args...)...); code != exitUsage || !strings.Contains(errs, "hint: ") {
			t.Errorf("events %s ends with %d: %s", args, code, errs)
		}
	}
	if _, errs, code := said(t, "events", "--admin", h.socket(), "-f", "--level=loud"); code != exitFailure || !strings.Contains(errs, "loud") && !strings.Contains(errs, "level") {
		t.Errorf("events --level=loud ends with %d: %s", code, errs)
	}

	all, told := follow(t, h)
	mistakes, _ := follow(t, h, "--level", "warn", "-o", "json")
	all.Wait(t, "ready")
	next, _ := h.start(t, "--takeover")
	_ = old.Wait()
	all.Wait(t, "took over")
	if err := next.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = next.Wait()
	told.Wait(t, "waiting for the daemon: no daemon serves")
	h.endpoint = "127.0.0.1:1"
	h.start(t, "--default", "wait=0s")
	if n := strings.Count(all.String(), "stopping"); n == 0 {
		t.Errorf("the end of a daemon was not told of: %s", all)
	}
	if conn, err := net.Dial("tcp", h.listen); err == nil { // or it is reset in the dial already
		_, _ = conn.Read(make([]byte, 1))
		conn.Close()
	}
	mistakes.Wait(t, `"message":"connection","fields":{"client":"127.0.0.1"`)
	if strings.Contains(mistakes.String(), `"level":"info"`) {
		t.Errorf("beside warnings there are %s", mistakes)
	}
	for line := range strings.Lines(mistakes.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q is not JSON", line)
		}
	}
}

// TestEndpointsStayDrained: what is decided of an endpoint holds over a reload, a takeover and a restart, until
// it is taken back, and takes no connection that is open.
func TestEndpointsStayDrained(t *testing.T) {
	h := newTestHost(t)
	file := filepath.Join(h.folder, "ambassadord.yml")
	if err := os.WriteFile(file, []byte("defaults: {wait: 0s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old, _ := h.start(t, "--config", file)
	served := func() error {
		conn, err := net.Dial("tcp", h.listen)
		if err != nil { // a reset may show in the dial already
			return err
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("x")) // or when it is read
		_, err = io.ReadFull(conn, make([]byte, 1))
		return err
	}
	open, err := net.Dial("tcp", h.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := served(); err != nil {
		t.Fatal(err)
	}
	out, errs, code := said(t, "endpoints", "drain", h.endpoint, "--admin", h.socket())
	if code != exitOK || !strings.Contains(out, h.endpoint+"  drained") {
		t.Fatalf("endpoints drain ends with %d: %s%s", code, out, errs)
	}
	drained := func(when string) {
		t.Helper()
		if err := served(); err == nil {
			t.Errorf("%s the drained endpoint serves a new connection", when)
		}
		if out, _, _ := said(t, "status", "--admin", h.socket(), "--all"); !strings.Contains(out, "every endpoint is out") || !strings.Contains(out, "drained by an operator") {
			t.Errorf("%s the status is\n%s", when, out)
		}
	}
	drained("at once")
	if _, errs, code := said(t, "reload", "--run-dir", filepath.Join(h.folder, "run")); code != exitOK {
		t.Fatal(errs)
	}
	drained("after a reload")
	if _, err := open.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
	open.Close()
	next, log := h.start(t, "--takeover")
	log.Wait(t, "serving the admin interface")
	_ = old.Wait()
	drained("after a takeover")
	if out, errs, code := said(t, "drain", "--admin", h.socket()); code != exitOK || !strings.Contains(out, "stops") {
		t.Fatalf("drain ends with %d: %s%s", code, out, errs)
	}
	if err := next.Wait(); err != nil {
		t.Errorf("the daemon that was told to stop ends with %v", err)
	}
	_, log = h.start(t)
	drained("after a restart")
	if _, errs, code := said(t, "endpoints", "restore", h.endpoint, "--admin", h.socket()); code != exitOK {
		t.Errorf("endpoints restore ends with %d: %s", code, errs)
	}
	if err := served(); err != nil {
		t.Errorf("after that was taken back: %v", err)
	}
	if out, _, code := said(t, "endpoints", "--admin", h.socket(), "-o", "json"); code != exitOK || out != "{\"endpoints\":[]}\n" {
		t.Errorf("endpoints -o json ends with %d: %s", code, out)
	}
	for _, args := range [][]string{
		{"endpoints", "weight", h.endpoint, "much"}, {"endpoints", "drain"}, {"endpoints", "eject", h.endpoint, "--for=-1s"},
		{"loglevel", "loud"}, {"connections", "close"},
	} {
		if _, errs, code := said(t, append(args, "--admin", h.socket())...); code != exitUsage {
			t.Errorf("%s ends with %d: %s", args, code, errs)
		}
	}
	if out, _, code := said(t, "loglevel", "debug", "--admin", h.socket()); code != exitOK || !strings.Contains(out, "level debug") {
		t.Errorf("loglevel ends with %d: %s", code, out)
	}
	for want, args := range map[string][]string{
		h.endpoint: {"endpoints", "drain", "--admin", h.socket(), h.endpoint[:5]}, h.endpoint + "\n:4": {"connections", "--admin", h.socket(), "--target", ""},
		":4\n": {"events", "--admin", h.socket(), "--client", "x"}, "warn\n": {"events", "--admin", h.socket(), "--level", "w"},
	} {
		if out, _, code := said(t, append([]string{"__complete"}, args...)...); code != exitOK || !strings.Contains(out, want) {
			t.Errorf("%q is completed by %q; want %q", args, out, want)
		}
	}
	conn, err := net.Dial("tcp", h.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("x"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := said(t, "connections", "close", "--source", conn.LocalAddr().String(), "--admin", h.socket()); code != exitOK || out != "closed: 1\n" {
		t.Errorf("connections close ends with %d: %s%s", code, out, errs)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	log.Wait(t, "reason=operator_closed")
}

// TestLogLevelOfAnOriginalCommandLine: a daemon that was started as the first ambassadord was obeys, too.
func TestLogLevelOfAnOriginalCommandLine(t *testing.T) {
	h := newTestHost(t)
	log := &daemontest.Log{}
	cmd := program(t, "--admin", h.socket(), "--run-dir", filepath.Join(h.folder, "run"), "--keep-connections=false", "--listen", h.listen, h.endpoint)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	log.Wait(t, "msg=ready")
	if _, errs, code := said(t, "loglevel", "debug", "--admin", h.socket()); code != exitOK {
		t.Fatalf("loglevel ends with %d: %s", code, errs)
	}
	log.Wait(t, "level=DEBUG")
}

// TestTheSocketIsTheDaemonsThatServes: through a takeover, the end of the old daemon, a daemon that is
// killed, and another daemon that would have the same path.
func TestTheSocketIsTheDaemonsThatServes(t *testing.T) {
	h := newTestHost(t)
	old, _ := h.start(t)
	conn, err := net.Dial("tcp", h.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // the old daemon has a connection to carry

	_, _, code := said(t, "status", "--admin", h.socket())
	if serverOf(t, h.socket()) != old.Process.Pid || code != exitOK {
		t.Fatal("the socket is not the first daemon's")
	}
	next, log := h.start(t, "--takeover")
	log.Wait(t, "serving the admin interface")
	if pid := serverOf(t, h.socket()); pid != next.Process.Pid {
		t.Errorf("process %d serves the socket; want %d, which has taken over from %d\n%s", pid, next.Process.Pid, old.Process.Pid, log)
	}
	if err := old.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	_ = old.Wait()
	if out, errs, code := said(t, "status", "--admin", h.socket()); code != exitOK || !strings.Contains(out, ": ready\n") {
		t.Errorf("after the old daemon's end: %d: %s%s", code, out, errs)
	}

	other := newTestHost(t)
	if err := os.Symlink(h.socket(), other.socket()); err != nil {
		t.Fatal(err)
	}
	_, log = other.start(t)
	log.Wait(t, "is a link")
	third := newTestHost(t)
	_, log = third.start(t, "--admin", h.socket())
	log.Wait(t, fmt.Sprintf("process %d serves", next.Process.Pid))
	if pid := serverOf(t, h.socket()); pid != next.Process.Pid {
		t.Errorf("process %d serves the socket of %d", pid, next.Process.Pid)
	}

	if err := next.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = next.Wait()
	if _, errs, code := said(t, "status", "--admin", h.socket()); code != exitFailure || !strings.Contains(errs, "was killed") || !strings.Contains(errs, "hint: start it") {
		t.Errorf("of a daemon that was killed: %d: %s", code, errs)
	}
	last, log := h.start(t)
	log.Wait(t, "serving the admin interface")
	if err := last.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = last.Wait()
	if _, errs, code := said(t, "connections", "--admin", h.socket()); code != exitFailure || !strings.Contains(errs, "no daemon serves "+h.socket()) || !strings.Contains(errs, "docker exec") {
		t.Errorf("after the end: %d: %s", code, errs)
	}
}

// childrenOf are the processes that a process has started.
func childrenOf(t *testing.T, parent int) (children []int) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for pid := range strings.FieldsSeq(string(text)) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, n)
		}
	}
	if len(children) == 0 {
		t.Fatal("the daemon has started no process")
	}
	return children
}

// connect makes a connection through the daemon and has it answered.
func (h testHost) connect(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", h.listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestAccessLog has connections end while the file is renamed, by SIGUSR1 and without, across a reload, a takeover and
// the death of the daemon: each has its line, once, in the file and not in the daemon's log.
func TestAccessLog(t *testing.T) {
	h := newTestHost(t)
	file := filepath.Join(h.folder, "access.log")
	config := filepath.Join(h.folder, "config.yml")
	if err := os.WriteFile(config, []byte("access-log: "+file+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--config", config, "--keep-connections=true", "--handover-timeout", "1m", "--log-level", "debug"}
	first, firstLog := h.start(t, flags...)
	ended, files := 0, []string{file}
	end := func(conns ...net.Conn) {
		for _, conn := range conns {
			conn.Close()
			ended++
		}
	}
	lines := func() int {
		n := 0
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n += strings.Count(string(text), "msg=connection ")
		}
		return n
	}
	await := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); lines() != ended; time.Sleep(10 * time.Millisecond) { // files tell nobody
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d lines in %s, of %d connections that have ended\n%s", what, lines(), files, ended, firstLog)
			}
		}
	}
	rotate := func() {
		renamed := fmt.Sprint(file, ".", len(files))
		if err := os.Rename(file, renamed); err != nil {
			t.Fatal(err)
		}
		files = append(files, renamed)
	}
	signal := func(of *exec.Cmd, s syscall.Signal) {
		t.Helper()
		if err := of.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(file); err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s makes no file", s)
			}
		}
	}

	end(h.connect(t))
	await("at first")
	for i := range 50 {
		end(h.connect(t))
		if i%10 == 5 {
			rotate()
			end(h.connect(t))
			signal(first, syscall.SIGUSR1)
		}
	}
	await("after SIGUSR1")
	rotate()
	signal(first, syscall.SIGHUP)
	end(h.connect(t))
	await("after SIGHUP")

	old := h.connect(t)
	next, nextLog := h.start(t, append(flags, "--takeover")...)
	rotate()
	signal(next, syscall.SIGUSR1)
	end(old, h.connect(t))
	await("after a takeover")
	if text, err := os.ReadFile(file); err != nil || strings.Count(string(text), "msg=connection ") != 2 {
		t.Errorf("the old daemon has gone on into the file that was renamed: %s, %v", text, err)
	}

	kept := h.connect(t)
	nextLog.Wait(t, "msg=kept connections=1") // the keeper says
	for _, child := range childrenOf(t, next.Process.Pid) {
		if err := syscall.Kill(child, syscall.SIGUSR1); err != nil { // as systemctl kill does
			t.Fatal(err)
		}
	}
	if err := next.Process.Kill(); err != nil { // the keeper has its standard error, so Wait would wait for that, too
		t.Fatal(err)
	}
	if _, err := kept.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(kept, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	end(kept)
	await("after the daemon's death")
	for _, log := range []*daemontest.Log{firstLog, nextLog} {
		if strings.Contains(log.String(), "msg=connection ") {
			t.Errorf("the daemon's log has lines of connections:\n%s", log)
		}
	}
}

// TestAccessLogThatCannotBeWritten: the daemon starts and serves, and says why there are no lines.
func TestAccessLogThatCannotBeWritten(t *testing.T) {
	h := newTestHost(t)
	_, log := h.start(t, "--access-log", "/dev/full")
	h.connect(t).Close()
	log.Wait(t, "its lines are lost, connections are served")
	h.connect(t).Close()
	_, log = newTestHost(t).start(t, "--access-log", filepath.Join(h.folder, "none", "access.log"))
	log.Wait(t, "make the folder")
}

// TestAdminPage runs the commands of docs/admin.md beside a daemon: they end well, and what they print has
// the fields that the page says. Its table has each route of the OpenAPI document, and no other.
func TestAdminPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/admin.md")
	if err != nil {
		t.Fatal(err)
	}
	h := newTestHost(t)
	h.start(t)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.socket())
	}}
	defer transport.CloseIdleConnections()
	get := func(url string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s (%v)", url, answer.Status, body, err)
		}
		return string(body)
	}

	_, block, _ := strings.Cut(string(text), "<!-- run by TestAdminPage")
	_, block, _ = strings.Cut(block, "```console\n")
	block, rest, _ := strings.Cut(block, "```")
	commands, printed := 0, ""
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		command, ok := strings.CutPrefix(line, "# ")
		words := word.FindAllString(command, -1)
		switch {
		case !ok:
			if !reflect.DeepEqual(fieldsOf(t, line), fieldsOf(t, printed)) {
				t.Errorf("the page says that %s is printed, and it is %s", line, printed)
			}
			continue
		case words[0] == "curl":
			printed = get(strings.Trim(words[len(words)-1], "'"))
		default:
			out, errs, code := said(t, append(words[1:], "--admin", h.socket())...)
			if printed = out; code != exitOK {
				t.Errorf("%s ends with %d: %s", command, code, errs)
			}
		}
		commands++
	}
	if commands < 5 {
		t.Errorf("the page has %d commands behind its mark", commands)
	}

	var document struct{ Paths map[string]any }
	if err := json.Unmarshal([]byte(get("http://localhost/v1/openapi.json")), &document); err != nil {
		t.Fatal(err)
	}
	document.Paths["/v1/openapi.json"] = nil // the document itself
	for _, match := range regexp.MustCompile("(?m)^\\| `(/[a-z0-9/.]*z|/v1/[a-z./]+)`(?:, by POST)? \\|").FindAllStringSubmatch(rest, -1) {
		if _, ok := document.Paths[match[1]]; !ok {
			t.Errorf("docs/admin.md has the route %s, which is none", match[1])
		}
		delete(document.Paths, match[1])
	}
	for path := range document.Paths {
		t.Errorf("docs/admin.md lacks the route %s", path)
	}
}

// fieldsOf are the names of an object's fields.
func fieldsOf(t *testing.T, text string) []string {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return slices.Sorted(maps.Keys(object))
}
