package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// The test program is also a peer of another user.
const peerVariable = "CONTROL_TEST_PEER"

func TestMain(m *testing.M) {
	name := os.Getenv(peerVariable)
	if name == "" {
		goleak.VerifyTestMain(m)
		return
	}
	conn, err := net.Dial("unixpacket", name)
	if err == nil {
		_, _ = conn.Write([]byte(`{"version":1,"request":"reload"}`))
		b := make([]byte, 1000)
		var n int
		if n, err = conn.Read(b); errors.Is(err, syscall.ECONNRESET) { // once, before what it was told
			n, err = conn.Read(b)
		}
		fmt.Fprintf(os.Stdout, "read %q, %v\n", b[:n], err)
	}
	os.Exit(0)
}

// startServer serves one request, "reload", which answers with err.
func startServer(t *testing.T, answer error) (name string, logged *daemontest.Log) {
	t.Helper()
	return startServerShared(t, answer, false)
}

func startServerShared(t *testing.T, answer error, shared bool) (name string, logged *daemontest.Log) {
	t.Helper()
	dir := daemontest.RunDir(t)
	listener, err := Listen(dir, dir.Socket(""), nil)
	if err != nil {
		t.Fatal(err)
	}
	name = dir.Path(dir.Socket(""))
	logged = &daemontest.Log{}
	s := &Server{Shared: shared, Log: slog.New(slog.NewTextHandler(logged, nil)), Handlers: map[string]Handler{
		Reload: func(_ context.Context, c *Conn, _ Request) { _ = c.Send(AnswerOf(answer)) },
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, ctx, listener.UnixListener) }()
	t.Cleanup(func() { cancel(); <-done; listener.Release() })
	return name, logged
}

func ask(t *testing.T, name, request string) (Answer, error) {
	t.Helper()
	c, err := Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ask(request, "test"); err != nil {
		return AnswerOf(err), nil
	}
	var a Answer
	_, err = c.Receive(&a, 0)
	return a, err
}

func TestAnswerKeepsErrorAndHint(t *testing.T) {
	name, _ := startServer(t, hint.Errorf("mend it", "line 3 is wrong"))
	a, err := ask(t, name, Reload)
	if err != nil || a.Err() == nil || a.Err().Error() != "line 3 is wrong" || hint.Of(a.Err()) != "mend it" {
		t.Errorf("answered %v (hint %q), %v", a.Err(), hint.Of(a.Err()), err)
	}
}

func TestUnknownRequest(t *testing.T) {
	name, _ := startServer(t, nil)
	a, err := ask(t, name, "dance")
	if err != nil || !strings.Contains(a.Error, `no request "dance"`) || a.Hint == "" {
		t.Errorf("answered %+v, %v", a, err)
	}
}

func TestNobody(t *testing.T) {
	if _, err := Dial(filepath.Join(t.TempDir(), "nobody")); !errors.Is(err, ErrNobody) {
		t.Errorf("Dial: %v; want ErrNobody", err)
	}
}

// TestGarbage sends what is no request, on many connections, and demands that the
// next who asks is answered.
func TestGarbage(t *testing.T) {
	name, _ := startServer(t, nil)
	for _, packet := range []string{"", "GET / HTTP/1.1\r\n", "{", `{"version":"one"}`, `{"version":7,"request":"reload"}`, "[1]", strings.Repeat("x", maxPacket+1)} {
		for range 2 * mostConversations {
			conn, err := net.Dial("unixpacket", name)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := conn.Write([]byte(packet)); err != nil && !errors.Is(err, syscall.EPIPE) { // refused: too many at once
				t.Fatal(err)
			}
			conn.Close()
		}
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		a, err := ask(t, name, Reload)
		if err == nil && a.Err() == nil {
			return
		}
		if time.Since(began) > 2*patience {
			t.Fatalf("after garbage: %+v, %v", a, err)
		}
	}
}

// TestDescriptorsOfGarbageAreClosed counts what is open before and after requests that
// bring descriptors nobody asked for.
func TestDescriptorsOfGarbageAreClosed(t *testing.T) {
	name, _ := startServer(t, nil)
	before := open(t)
	for range 20 {
		c, err := Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(Request{Version: Version, Request: Reload}, 0, 1, 2); err != nil {
			t.Fatal(err)
		}
		var a Answer
		if _, err := c.Receive(&a, 0); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	// The server closes its end when the last answer has already come.
	for deadline := time.Now().Add(10 * time.Second); open(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are open, before it were %d", open(t), before)
		}
	}
}

func open(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestSilentPeersHoldUpNobodyForLong fills all that a process may have with peers that say
// nothing, and asks again until one has been given up.
func TestSilentPeersHoldUpNobodyForLong(t *testing.T) {
	name, _ := startServer(t, nil)
	for range share {
		conn, err := net.Dial("unixpacket", name)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if a, err := ask(t, name, Reload); err == nil && a.Err() == nil {
			return
		}
		if time.Since(began) > 2*patience {
			t.Fatal("beside silent peers nobody is answered")
		}
	}
}

// TestOtherUserIsRefused asks as another user, to whom the folder has been opened: that
// takes root to do, and a path that others may walk.
func TestOtherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can be two users")
		return
	}
	name, logged := startServer(t, nil)
	for at := name; at != "/tmp"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	// The descriptor, for the path may be closed to others.
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Env = []string{peerVariable + "=" + name, "GORACE=atexit_sleep_ms=0"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "of user 65534") {
		t.Errorf("another user was told %q (%v); want that it is refused", out, err)
	}
	if !strings.Contains(logged.String(), "user 65534") {
		t.Errorf("the log says %q; want it to name the user", logged)
	}
}

func TestReceiveIsBounded(t *testing.T) {
	name, _ := startServer(t, nil)
	c, err := Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var a Answer
	if _, err := c.Receive(&a, 10*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Receive of nothing: %v; want a deadline", err)
	}
}

func TestPeerThatLeaves(t *testing.T) {
	name, _ := startServer(t, nil)
	c, err := Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ask(Reload, "test"); err != nil {
		t.Fatal(err)
	}
	var a Answer
	if _, err := c.Receive(&a, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(&a, 0); !errors.Is(err, io.EOF) {
		t.Errorf("Receive after the end: %v; want io.EOF", err)
	}
}

// TestEnded: only the peer's end counts, not our own, and only when all it said was received.
func TestEnded(t *testing.T) {
	name, _ := startServer(t, nil)
	c, err := Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Ended() {
		t.Error("a conversation that has just begun has ended")
	}
	if err := c.Ask(Reload, "test"); err != nil {
		t.Fatal(err)
	}
	var a Answer
	if _, err := c.Receive(&a, 0); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !c.Ended(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the peer has closed, and the conversation has not ended")
		}
	}
	c.Close()
	if c.Ended() {
		t.Error("we have closed, and it is the peer that counts as gone")
	}
}

// TestListen replaces what a killed process has left, and nothing else.
func TestListen(t *testing.T) {
	dir := daemontest.RunDir(t)
	name := dir.Socket(":6379")
	stale, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: dir.Path(name), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if _, err := Find(dir.String()); !errors.Is(err, ErrNobody) || hint.Of(err) == "" {
		t.Errorf("Find beside a dead daemon's socket: %v; want ErrNobody and a hint", err)
	}
	first, err := Listen(dir, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(dir, name, nil); !errors.Is(err, rundir.ErrHeld) {
		t.Errorf("a second Listen: %v; want ErrHeld", err)
	}
	if at, err := Find(dir.String()); at != dir.Path(name) || err != nil {
		t.Errorf("Find = %q, %v", at, err)
	}
	second, err := Listen(dir, dir.Socket(":6380"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Also(dir.Socket(":6381"), nil); err != nil {
		t.Fatal(err)
	}
	_, err = Find(dir.String())
	if err == nil || !strings.Contains(hint.Of(err), "--control") || !strings.Contains(err.Error(), ":6380") || strings.Contains(err.Error(), ":6381") {
		t.Errorf("Find of two: %v; want that one is to be chosen, and each named once", err)
	}
	host, err := Listen(dir, dir.Socket(""), nil)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := Find(dir.String()); at != dir.Path(dir.Socket("")) || err != nil {
		t.Errorf("Find = %q, %v; want the host's", at, err)
	}
	for _, l := range []*Listener{first, second, host} {
		l.Release()
	}
	if entries, err := os.ReadDir(dir.String()); len(entries) > 0 || err != nil {
		t.Errorf("left are %v, %v", entries, err)
	}
}

// TestSuccessorTakesThePath: the old daemon's socket is there until the new one's is, and
// what the old one does after that is of no consequence.
func TestSuccessorTakesThePath(t *testing.T) {
	dir := daemontest.RunDir(t)
	names := []string{dir.Socket(":6379"), dir.Socket(":6380")}
	listen := func(inherited Inherited) *Listener {
		t.Helper()
		l, err := Listen(dir, names[0], inherited)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Also(names[1], inherited); err != nil {
			t.Fatal(err)
		}
		return l
	}
	old := listen(nil)
	if at, err := Find(dir.String()); at != dir.Path(names[0]) || err != nil {
		t.Errorf("Find = %q, %v; want the first name of the one socket", at, err)
	}
	if err := old.Also(names[0], nil); !errors.Is(err, rundir.ErrHeld) {
		t.Errorf("a name that is had already: %v; want ErrHeld", err)
	}
	locks := old.Locks()
	next := listen(func(lock string) *rundir.Lock {
		fd, err := unix.FcntlInt(locks[0].File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		l, ok := dir.Adopt(lock, os.NewFile(uintptr(fd), "handed over"))
		if !ok {
			t.Fatal("the lock is not the socket's")
		}
		locks = locks[1:]
		return l
	})
	old.Leave()
	for _, name := range names {
		c, err := Dial(dir.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	next.Release()
	if entries, err := os.ReadDir(dir.String()); len(entries) > 0 || err != nil {
		t.Errorf("left are %v, %v", entries, err)
	}
	if _, err := Dial(dir.Path(names[0])); !errors.Is(err, ErrNobody) {
		t.Errorf("Dial after the end: %v; want ErrNobody", err)
	}
}

// TestNameThatCannotBeHad: a socket that loses its first name gets no other by it, and keeps the
// lock of none that it has not.
func TestNameThatCannotBeHad(t *testing.T) {
	dir := daemontest.RunDir(t)
	l, err := Listen(dir, dir.Socket(":6379"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if err := os.Remove(dir.Path(dir.Socket(":6379"))); err != nil {
		t.Fatal(err)
	}
	other := dir.Socket(":6380")
	if err := l.Also(other, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Also: %v; want that the socket is gone", err)
	}
	if Held(dir, other) || len(l.Locks()) != 1 {
		t.Errorf("%s is held, or its lock is the listener's: %d", other, len(l.Locks()))
	}
}

// TestLongPath says what to do about a path that no socket can have.
func TestLongPath(t *testing.T) {
	dir, err := rundir.Open(filepath.Join(t.TempDir(), strings.Repeat("long", 30)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(dir, dir.Socket(""), nil); err == nil || !strings.Contains(hint.Of(err), "shorter") {
		t.Errorf("Listen: %v (hint %q)", err, hint.Of(err))
	}
}

// TestPeerOfAnotherMountNamespace asks from a mount namespace of its own, as a container
// would that has the folder mounted into it; that takes root.
func TestPeerOfAnotherMountNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can make a mount namespace")
		return
	}
	for _, shared := range []bool{false, true} {
		name, logged := startServerShared(t, nil, shared)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{peerVariable + "=" + name, "GORACE=atexit_sleep_ms=0"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if answered := strings.Contains(string(out), `read "{}"`); answered != shared {
			t.Errorf("shared %t: it was told %q; the log says %q", shared, out, logged)
		}
		if !shared && (!strings.Contains(string(out), "another mount namespace") || !strings.Contains(string(out), "--run-dir-shared")) {
			t.Errorf("it was told %q; want why, and what to do", out)
		}
	}
}

// TestFailuresAreNotAllLogged has a peer that fails in a loop, and counts lines.
func TestFailuresAreNotAllLogged(t *testing.T) {
	name, logged := startServer(t, nil)
	began := time.Now()
	for range 500 {
		conn, err := net.Dial("unixpacket", name)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = conn.Write([]byte("{"))
		_, _ = conn.Read(make([]byte, 1)) // until it is closed
		conn.Close()
	}
	most := failuresAtOnce + failuresPerSecond*(1+int(time.Since(began)/time.Second))
	if n := strings.Count(logged.String(), "\n"); n == 0 || n > most {
		t.Errorf("500 failures in %s made %d lines; want 1 to %d", time.Since(began), n, most)
	}
}

// TestOneProcessHasAShare: a process that holds many conversations leaves room for others.
func TestOneProcessHasAShare(t *testing.T) {
	name, _ := startServer(t, nil)
	for range share {
		conn, err := net.Dial("unixpacket", name)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	a, err := ask(t, name, Reload)
	if err != nil || a.Err() == nil || !strings.Contains(a.Error, "conversations already") {
		t.Errorf("one more was answered %+v, %v", a, err)
	}
}
