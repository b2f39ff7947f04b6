package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/hint"
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
		b := make([]byte, 100)
		var n int
		n, err = conn.Read(b)
		fmt.Fprintf(os.Stdout, "read %q, %v\n", b[:n], err)
	}
	os.Exit(0)
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startServer serves one request, "reload", which answers with err.
func startServer(t *testing.T, answer error) (name string, logged *buffer) {
	t.Helper()
	name = fmt.Sprintf("%s/test-%d-%s", Name, os.Getpid(), t.Name())
	listener, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	logged = &buffer{}
	s := &Server{Log: slog.New(slog.NewTextHandler(logged, nil)), Handlers: map[string]Handler{
		Reload: func(_ context.Context, c *Conn, _ Request) { _ = c.Send(AnswerOf(answer)) },
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, ctx, listener) }()
	t.Cleanup(func() { cancel(); <-done })
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
		t.Fatal(err)
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
	if _, err := Dial(Name + "/nobody"); !errors.Is(err, ErrNobody) {
		t.Errorf("Dial: %v; want ErrNobody", err)
	}
}

// TestGarbage sends what is no request, on many connections, and demands that the
// next who asks is answered.
func TestGarbage(t *testing.T) {
	name, _ := startServer(t, nil)
	for _, packet := range []string{"", "GET / HTTP/1.1\r\n", "{", `{"version":"one"}`, `{"version":7,"request":"reload"}`, "[1]", strings.Repeat("x", maxPacket+1)} {
		for range 2 * crowd {
			conn, err := net.Dial("unixpacket", name)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := conn.Write([]byte(packet)); err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
	}
	if a, err := ask(t, name, Reload); err != nil || a.Err() != nil {
		t.Errorf("after garbage: %+v, %v", a, err)
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

// TestSilentPeersHoldUpNobodyForLong fills every slot with peers that say nothing.
func TestSilentPeersHoldUpNobodyForLong(t *testing.T) {
	name, _ := startServer(t, nil)
	for range crowd {
		conn, err := net.Dial("unixpacket", name)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	c, err := Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ask(Reload, "test"); err != nil {
		t.Fatal(err)
	}
	var a Answer
	if _, err := c.Receive(&a, 2*patience); err != nil {
		t.Errorf("beside silent peers: %v", err)
	}
}

// TestOtherUserIsRefused asks as another user, which takes root to do.
func TestOtherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can be two users: looking at the check alone")
		return
	}
	name, logged := startServer(t, nil)
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
	if err != nil || !strings.Contains(string(out), `read ""`) {
		t.Errorf("another user was told %q (%v); want nothing", out, err)
	}
	if _, err := ask(t, name, Reload); err != nil { // also: the log has been written
		t.Error(err)
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

func TestListening(t *testing.T) {
	const text = `Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0005 01 11111 @ambassadord/control/:6379
0000000000000000: 00000003 00000000 00000000 0005 03 22222 @ambassadord/control
0000000000000000: 00000002 00000000 00010000 0005 01 33333 @ambassadord/control
0000000000000000: 00000002 00000000 00010000 0001 01 44444 @ambassadord/redirect
0000000000000000: 00000002 00000000 00010000 0001 01 55555
0000000000000000: 00000002 00000000 00010000 0001 01 66666 /tmp/@ambassadord/control
`
	want := []string{"@ambassadord/control", "@ambassadord/control/:6379"}
	if got := listening(text); !slices.Equal(got, want) {
		t.Errorf("listening = %q; want %q", got, want)
	}
}
