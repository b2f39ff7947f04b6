package proxy

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

// ways is how the connections of a test are carried.
var ways struct {
	loops       int
	again       bool // all has been tried in another way
	nonBlocking bool // routers say at once what they say
}

// everyWay runs all tests once for each way, so that none can do what another cannot.
type everyWay struct{ m *testing.M }

func (e everyWay) Run() int {
	ways.loops = 2
	code := e.m.Run()
	if flag.Lookup("test.bench").Value.String() != "" {
		return code // benchmarks choose for themselves
	}
	// A single loop leaves processors to others, and keeps its own during short waits.
	ways.loops, ways.nonBlocking, ways.again = 1, true, true
	return max(code, e.m.Run())
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(everyWay{m}) }

// nonBlocking is a Router that also says at once what it says.
type nonBlocking struct{ RouterFunc }

func (p nonBlocking) RouteNow(Accepted) (*Route, Chooser) {
	route, err := p.RouterFunc(context.Background(), (*net.TCPConn)(nil))
	if err != nil {
		return nil, nil
	}
	endpoints := route.Endpoints
	route.Endpoints = nil
	return &route, endpoints
}

// holdLoops calls do for each connection of the loops, and has all loops wait until release
// is called.
func holdLoops(t *testing.T, server *Server, do func(*relay)) (release func()) {
	t.Helper()
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	for _, loop := range server.loops {
		entered := make(chan struct{})
		loop.post(func() {
			for _, r := range loop.relays {
				if r != nil {
					do(r)
				}
			}
			close(entered)
			<-gate
		})
		<-entered
	}
	return release
}

// TestLoopKeepsToItsThread: whatever else wants to run, the same thread goes on with a
// loop.
func TestLoopKeepsToItsThread(t *testing.T) {
	l := newLab(t, &Server{}, to(refused(t)))
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					runtime.Gosched()
				}
			}
		})
	}
	defer others.Wait()
	defer close(stop)
	loop := l.server.loops[0]
	var first int
	loop.call(func() { first = unix.Gettid() })
	for range 50 {
		var thread int
		loop.call(func() { thread = unix.Gettid() })
		if thread != first {
			t.Fatalf("the loop went on in thread %d; want %d, where it began", thread, first)
		}
	}
}

// TestFewerLoops: connections are carried by the loops that could be made.
func TestFewerLoops(t *testing.T) {
	if ways.loops < 2 {
		return // one is all or nothing
	}
	var log strings.Builder
	server := &Server{Loops: 2, Log: slog.New(slog.NewTextHandler(&log, nil))}
	withDescriptors(t, 2, server.init) // what one loop has
	if n := len(server.loops); n != 1 {
		t.Fatalf("there are %d loops; want 1", n)
	}
	if want := "wanted=2 started=1"; !strings.Contains(log.String(), want) {
		t.Errorf("the log says\n%s\nwant %s", log.String(), want)
	}
	l := newLab(t, server, to(backend(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })))
	conn := l.dial()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestNoDescriptorToHandOverWith: a connection whose endpoint has answered goes to a loop also
// when the process has no descriptor left.
func TestNoDescriptorToHandOverWith(t *testing.T) {
	server := &Server{}
	server.init()
	defer server.Drain(t.Context())
	client, accepted := sockettest.Couple(t)
	dialled, endpoint := sockettest.Couple(t)
	withDescriptors(t, 64, func() { // as many as leave none that is in use beyond the bound
		for {
			fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				break
			}
			defer socket.Close(fd)
		}
		c, u, ok := server.takeBoth(accepted, dialled)
		if !ok {
			t.Fatal("the connection cannot be handed over")
		}
		socket.Close(c)
		socket.Close(u)
	})
	for _, conn := range []*net.TCPConn{client, endpoint} { // what was handed over are these sockets, and nobody else has them
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("its other end reads %v; want the end", err)
		}
	}
	if !server.spare.Held() {
		t.Error("the spare descriptor is not taken again")
	}
}

// TestClientIsThereWithoutHandOver: where the endpoint's socket cannot be handed over the client has
// not left, and is not said to have.
func TestClientIsThereWithoutHandOver(t *testing.T) {
	server := &Server{}
	server.init()
	defer server.Drain(t.Context())
	_, accepted := sockettest.Couple(t)
	dialled, _ := sockettest.Couple(t)
	dialled.Close()
	if _, _, ok := server.takeBoth(accepted, dialled); ok {
		t.Fatal("a connection that is closed was handed over")
	}
	if err := server.whyUnserved(t.Context(), accepted, errNoDescriptors); ReasonOf(err) != OverLimit {
		t.Errorf("it is unserved since %v; want the reason %s", err, OverLimit)
	}
}

// TestNoLoop: a server without a descriptor for a loop accepts nothing and says why, and what
// another process has left is reset.
func TestNoLoop(t *testing.T) {
	records := make(chan Record, 1)
	server := &Server{Done: func(r Record) { records <- r }}
	withDescriptors(t, 1, server.init)
	defer server.Drain(t.Context())
	if _, err := server.Accept(NewListener(listen(t)), nil); !errors.Is(err, unix.EMFILE) || hint.Of(err) == "" {
		t.Errorf("Accept: %v, hint %q; want EMFILE, and what to do", err, hint.Of(err))
	}
	i := inherit(t)
	server.Resume(i.live, nil)
	wantReset(t, i.client)
	wantReset(t, i.endpoint)
	if r := <-records; ReasonOf(r.Err) != OverLimit {
		t.Errorf("ended with %v; want the reason %s", r.Err, OverLimit)
	}
}

// withDescriptors calls f while only so many descriptors are left.
func withDescriptors(t *testing.T, left int, f func()) {
	t.Helper()
	// What other tests have left open is closed when it is collected: now, and not meanwhile.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var probes []int
	for range left {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		probes = append(probes, fd)
	}
	for _, fd := range probes {
		socket.Close(fd)
	}
	var usual unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(probes[left-1]) + 1, Max: usual.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
