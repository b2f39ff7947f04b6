package keeper

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/confine"
	"github.com/ambassadord/ambassadord/proxy"
)

// The test program is also the two processes that the tests are about.
const roleVariable = "KEEPER_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "":
		goleak.VerifyTestMain(m)
	case "keeper":
		err = runKeeper()
	case "daemon":
		err = runDaemon(os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runKeeper prints a line for each connection that it has carried on.
func runKeeper() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &proxy.Server{Done: func(r proxy.Record) {
		fmt.Fprintf(os.Stdout, "carried client=%s port=%d up=%d down=%d reason=%s\n",
			r.Route.Client.Name, r.Route.Port, r.Up, r.Down, proxy.ReasonOf(r.Err))
	}}
	fmt.Fprintf(os.Stdout, "keeper %d\n", os.Getpid())
	// As the daemon's does; that it works in there all these tests say.
	if err := confine.ToOpenDescriptors(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return Serve(ctx, os.NewFile(3, "daemon"), server, 50*time.Millisecond, nil, slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})))
}

// runDaemon forwards a port to endpoint until SIGTERM. It prints its address.
func runDaemon(endpoint string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	addr, err := net.ResolveTCPAddr("tcp", endpoint)
	if err != nil {
		return err
	}
	if err := os.Setenv(roleVariable, "keeper"); err != nil {
		return err
	}
	k := New([]string{"/proc/self/exe"}, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	server := &proxy.Server{Keeper: k}
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "listening", listener.Addr())
	kept, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); k.Run(kept) }()
	stopAccepting, err := server.Accept(proxy.NewListener(listener), proxy.RouterFunc(func(context.Context, *net.TCPConn) (proxy.Route, error) {
		return proxy.Route{
			Client: proxy.Client{Name: "app"}, Port: 6379,
			Endpoints: proxy.InOrder(proxy.Endpoint{Addr: addr.AddrPort()}),
		}, nil
	}))
	if err == nil {
		<-ctx.Done()
		stopAccepting()
	}
	expired, expire := context.WithCancel(context.Background())
	expire()
	server.Drain(expired)
	cancel()
	<-ended
	return err
}

// pairOfProcesses is a daemon and its keeper.
type pairOfProcesses struct {
	t     *testing.T
	cmd   *exec.Cmd
	addr  string
	lines chan string // what both print; closed when both have ended
}

func startDaemon(t *testing.T, endpoint string) *pairOfProcesses {
	t.Helper()
	p := &pairOfProcesses{t: t, lines: make(chan string, 1000)}
	p.cmd = exec.CommandContext(t.Context(), os.Args[0], endpoint)
	p.cmd.Env = append(os.Environ(), roleVariable+"=daemon", "GORACE=atexit_sleep_ms=50")
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		for range p.lines {
		}
		_ = p.cmd.Wait()
	})
	p.addr = p.await("listening ")
	return p
}

// await returns what follows prefix in the next line that has it.
func (p *pairOfProcesses) await(prefix string) string {
	p.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("both processes have ended without a line %q", prefix)
			}
			if rest, found := strings.CutPrefix(line, prefix); found {
				return rest
			}
		case <-timeout:
			p.t.Fatalf("no line %q", prefix)
		}
	}
}

// awaitKept waits until the keeper has n connections.
func (p *pairOfProcesses) awaitKept(n int) {
	p.t.Helper()
	for kept := ""; kept != fmt.Sprint("msg=kept connections=", n); {
		_, kept, _ = strings.Cut(p.await("time="), "level=DEBUG ")
	}
}

// rest is what they print until both have ended.
func (p *pairOfProcesses) rest() string {
	p.t.Helper()
	var b strings.Builder
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				return b.String()
			}
			fmt.Fprintln(&b, line)
		case <-timeout:
			p.t.Fatalf("they still run, and said\n%s", b.String())
		}
	}
}

func (p *pairOfProcesses) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pairOfProcesses) dial() *net.TCPConn {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// endpoint listens until the test ends and hands each connection to serve.
func endpoint(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return listener.Addr().String()
}

func echo(conn *net.TCPConn) {
	defer conn.Close()
	_, _ = io.Copy(conn, conn)
}

func exchange(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v back; want %q", got, err, text)
	}
}

// Connections at rest outlive the daemon that was killed, each to its own end.
func TestDaemonKilled(t *testing.T) {
	const n = 20 // more than fit into one message
	p := startDaemon(t, endpoint(t, echo))
	var conns []*net.TCPConn
	for i := range n {
		conn := p.dial()
		exchange(t, conn, fmt.Sprint("before ", i))
		conns = append(conns, conn)
	}
	if err := conns[0].CloseWrite(); err != nil { // which comes back as well: it is over
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conns[0]); err != nil || len(rest) > 0 {
		t.Fatalf("%q, %v after the end", rest, err)
	}
	p.awaitKept(n - 1)

	p.signal(syscall.SIGKILL)
	for i, conn := range conns[1:] {
		exchange(t, conn, fmt.Sprint("after ", i))
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Fatalf("%q, %v after the end", rest, err)
		}
	}
	said := p.rest()
	if got := strings.Count(said, "carried client=app port=6379 "); got != n-1 {
		t.Errorf("%d connections were carried on, want %d:\n%s", got, n-1, said)
	}
	if want := "carried client=app port=6379 up=15 down=15 reason=\n"; !strings.Contains(said, want) {
		t.Errorf("no line %q, with the bytes of before and after:\n%s", want, said)
	}
}

// What the daemon had in its hands is lost, and must not look like a whole stream.
func TestDaemonKilledWithBytesInItsHands(t *testing.T) {
	hold := make(chan struct{})
	p := startDaemon(t, endpoint(t, func(conn *net.TCPConn) {
		<-hold // and do not read
		conn.Close()
	}))
	t.Cleanup(func() { close(hold) }) // before both are waited for
	conn := p.dial()
	p.awaitKept(1)
	block := make([]byte, 1<<20)
	for full := false; !full; { // everything on the way, the daemon's pipe too
		if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Write(block)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		full = n == 0
	}
	p.signal(syscall.SIGKILL)
	p.await("carried client=app port=6379 up=0 down=0 reason=daemon_gone")
	if _, err := conn.Read(block); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
}

// A daemon that ends as it should takes the keeper along.
func TestFarewell(t *testing.T) {
	p := startDaemon(t, endpoint(t, echo))
	conn := p.dial()
	exchange(t, conn, "hello")
	p.awaitKept(1)
	p.signal(syscall.SIGTERM)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want the reset of a drain that is over", err)
	}
	if said := p.rest(); strings.Contains(said, "carried") {
		t.Errorf("the keeper has carried on what was over:\n%s", said)
	}
}

// While the daemon lives the keeper is deaf to SIGTERM; afterwards it drains.
func TestKeeperIsStopped(t *testing.T) {
	p := startDaemon(t, endpoint(t, echo))
	conn := p.dial()
	exchange(t, conn, "hello")
	var pid int
	if _, err := fmt.Sscan(p.await("keeper "), &pid); err != nil {
		t.Fatal(err)
	}
	p.awaitKept(1)
	p.signal(syscall.SIGKILL)
	exchange(t, conn, "carried on")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
	if said := p.rest(); !strings.Contains(said, "reason=drain_timeout") {
		t.Errorf("the keeper said\n%s", said)
	}
}

// A keeper that dies is replaced, and the next one knows every connection.
func TestKeeperKilled(t *testing.T) {
	p := startDaemon(t, endpoint(t, echo))
	conn := p.dial()
	exchange(t, conn, "before")
	for range 2 {
		var pid int
		if _, err := fmt.Sscan(p.await("keeper "), &pid); err != nil {
			t.Fatal(err)
		}
		p.awaitKept(1)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		exchange(t, conn, "between")
	}
	p.awaitKept(1)
	p.signal(syscall.SIGKILL)
	exchange(t, conn, "after")
}

// The end of a connection is passed on although the keeper has a hand on it.
func TestReleased(t *testing.T) {
	ends := make(chan error, 1)
	p := startDaemon(t, endpoint(t, func(conn *net.TCPConn) {
		_, err := io.Copy(io.Discard, onlyReader{conn})
		ends <- err
		conn.Close()
	}))
	conn := p.dial()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(p.await("keeper "), &pid); err != nil {
		t.Fatal(err)
	}
	p.awaitKept(1)
	if err := conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-ends; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the endpoint reads %v, want the reset", err)
	}
	// The reset was sent when the last reference went, which was the keeper's.
	if sockets := tcpSockets(t, pid); sockets != 0 {
		t.Errorf("the keeper still holds %d connections", sockets)
	}
}

type onlyReader struct{ io.Reader }

// tcpSockets counts the descriptors of a process that are sockets, but for the one
// to the daemon and the poller's.
func tcpSockets(t *testing.T, pid int) (n int) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		link, err := os.Readlink(folder + "/" + e.Name())
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(link, "socket:["); ok && bytes.Contains(table, []byte(" "+strings.TrimSuffix(inode, "]")+" ")) {
			n++
		}
	}
	return n
}

// lasting is a connection without ends.
type lasting proxy.Live

func (l lasting) Live() proxy.Live { return proxy.Live(l) }

func (lasting) Duplicate() (client, upstream int, ok bool) { return -1, -1, false }

// A connection is handed over when it is a second old, and never before.
func TestWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(nil, slog.New(slog.DiscardHandler))
		short := k.Keep(lasting{Attempts: 1, Accepted: time.Now()})
		long := k.Keep(lasting{Attempts: 2, Accepted: time.Now()})
		<-k.wake
		if due, released, next := k.work(time.Now()); len(due)+len(released) > 0 || next != handOverAfter {
			t.Errorf("at once: %d due, %d released, next in %s", len(due), len(released), next)
		}
		time.Sleep(handOverAfter / 2)
		later := k.Keep(lasting{Attempts: 3, Accepted: time.Now()})
		k.Release(short)
		time.Sleep(handOverAfter / 2)
		due, released, next := k.work(time.Now())
		if len(due) != 1 || due[0].conn.Live().Attempts != 2 || len(released) > 0 || next != handOverAfter/2 {
			t.Errorf("after a second: %+v due, %d released, next in %s", due, len(released), next)
		}
		k.Release(later)
		k.Release(long)
		<-k.wake
		due, released, next = k.work(time.Now())
		if len(due) > 0 || len(released) != 1 || released[0] != long || next != 0 {
			t.Errorf("at the end: %+v due, %v released, next in %s", due, released, next)
		}
		for number := range k.entries.all() {
			t.Errorf("left: %#x", number)
		}
		if k.fresh != nil {
			t.Errorf("left: %v", k.fresh)
		}
	})
}

// No keeper to be had costs no connection anything.
func TestNoKeeper(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		k := New([]string{"/nowhere"}, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		number := k.Keep(lasting{})
		time.Sleep(10 * time.Second)
		k.Release(number)
		cancel()
		<-done
	})
	// After 1 s, and then 1, 2 and 4 s later.
	if got := strings.Count(log.String(), "would not survive"); got != 4 {
		t.Errorf("tried %d times in 10 s, want 4:\n%s", got, log.String())
	}
}
