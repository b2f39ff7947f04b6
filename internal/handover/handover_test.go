package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/rights"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// giver is an old daemon: what it gives, and what became of that.
type giver struct {
	t        *testing.T
	name     string
	dir      *rundir.Dir
	registry Registry
	left     chan struct{} // closed by leave
	late     func()        // called by leave; may be nil
	stop     func()        // tells it to end
	end      func()        // ends it, and returns when it has
	result   chan error    // Give's
}

func startGiver(t *testing.T) *giver {
	t.Helper()
	dir := daemontest.RunDir(t)
	stopping, stop := context.WithCancel(t.Context())
	g := &giver{
		t: t, name: dir.Path(dir.Socket("")), dir: dir,
		stop: stop, left: make(chan struct{}), result: make(chan error, 10),
	}
	listener, err := control.Listen(dir, dir.Socket(""), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &control.Server{Log: slog.New(slog.DiscardHandler), Handlers: map[string]control.Handler{
		Request: func(_ context.Context, c *control.Conn, _ control.Request) {
			g.result <- Give(stopping, c, &g.registry, func() {
				close(g.left)
				if g.late != nil {
					g.late()
				}
			})
		},
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, ctx, listener.UnixListener) }()
	g.end = func() { cancel(); <-done }
	t.Cleanup(func() { g.end(); listener.Release() })
	return g
}

func (g *giver) listen(socket Socket) *net.TCPListener {
	g.t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	g.registry.Add(socket, l)
	return l
}

func (g *giver) dial() *control.Conn {
	g.t.Helper()
	c, err := control.Dial(g.name)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(c.Close)
	return c
}

func (g *giver) begin() *Session {
	g.t.Helper()
	s, err := Begin(g.t.Context(), g.dial(), "test", NewSet())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(s.Set.Close)
	return s
}

func anywhere(netip.AddrPort) bool { return true }

// TestNothingInABacklogIsLost hands over a socket in which connections wait that the
// old daemon has not accepted, and closes the old one's.
func TestNothingInABacklogIsLost(t *testing.T) {
	g := startGiver(t)
	socket := Socket{Role: Redirect, Namespace: netns.ID{Dev: 4, Inode: 4026532281}}
	old := g.listen(socket)
	const waiting = 20
	for i := range waiting {
		conn, err := net.Dial("tcp", old.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintln(conn, i)
	}
	s := g.begin()
	l := s.Set.Take(socket, func(at netip.AddrPort) bool { return at == AddrOf(old) })
	if l == nil {
		t.Fatal("the socket did not come")
	}
	defer l.Close()
	if err := s.Accepting(); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := <-g.result; err != nil {
		t.Fatal(err)
	}
	old.Close()
	for range waiting {
		_ = l.SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var number int
		if _, err := fmt.Fscan(conn, &number); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	if rest := s.Set.Rest(); len(rest) > 0 {
		t.Errorf("left is %v", rest)
	}
}

// TestManySockets hands over more than fit into a packet, each to its namespace.
func TestManySockets(t *testing.T) {
	g := startGiver(t)
	const count = 1000
	addrs := map[Socket]netip.AddrPort{}
	for i := range count {
		socket := Socket{Role: Listen, Namespace: netns.ID{Dev: 4, Inode: uint64(i)}}
		addrs[socket] = AddrOf(g.listen(socket))
	}
	s := g.begin()
	for socket, addr := range addrs {
		l := s.Set.Take(socket, anywhere)
		if l == nil || AddrOf(l) != addr {
			t.Fatalf("%v came as %v; want %s", socket, l, addr)
		}
		l.Close()
	}
	s.GiveUp(errors.New("enough"))
	if err := <-g.result; err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("Give: %v; want the reason why it was given up", err)
	}
}

// TestLateSockets opens one after the new daemon has begun.
func TestLateSockets(t *testing.T) {
	g := startGiver(t)
	early, late := Socket{Role: Fixed}, Socket{Role: Redirect, Namespace: netns.ID{Inode: 7}}
	g.listen(early)
	gone := g.listen(Socket{Role: Host})
	g.late = func() { g.listen(late) }
	gone.Close() // and still known: it is passed over
	s := g.begin()
	if s.Set.Take(Socket{Role: Host}, anywhere) != nil {
		t.Error("a socket came that was closed")
	}
	if err := s.Accepting(); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []Socket{early, late} {
		l := s.Set.Take(socket, anywhere)
		if l == nil {
			t.Errorf("%v did not come", socket)
			continue
		}
		l.Close()
	}
}

// TestGiveFails has the new daemon fail at each step: the old one serves on.
func TestGiveFails(t *testing.T) {
	for name, c := range map[string]struct {
		peer func(*testing.T, *control.Conn)
		want string
	}{
		"asks and leaves": {func(t *testing.T, c *control.Conn) { mustAsk(t, c) }, ""},
		"leaves when it has the sockets": {func(t *testing.T, c *control.Conn) {
			mustAsk(t, c)
			receiveAll(t, c)
		}, "ended before it accepted"},
		"says something else": {func(t *testing.T, c *control.Conn) {
			mustAsk(t, c)
			receiveAll(t, c)
			_ = c.Send(handoverMessage{Phase: "dancing"})
			_, _ = c.Receive(&handoverMessage{}, 0)
		}, `said "dancing"`},
		"sends garbage": {func(t *testing.T, c *control.Conn) {
			mustAsk(t, c)
			receiveAll(t, c)
			_ = c.Send("garbage")
			_, _ = c.Receive(&handoverMessage{}, 0)
		}, "cannot unmarshal"},
		"gives up": {func(t *testing.T, c *control.Conn) {
			mustAsk(t, c)
			receiveAll(t, c)
			_ = c.Send(handoverMessage{Phase: phaseGivenUp, Answer: control.AnswerOf(errors.New("no engine"))})
		}, "gave up: no engine"},
		"accepts and leaves before it can know": {func(t *testing.T, c *control.Conn) {
			mustAsk(t, c)
			receiveAll(t, c)
			_ = c.Send(handoverMessage{Phase: phaseGivenUp})
		}, "did not say why"},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGiver(t)
			g.listen(Socket{Role: Fixed})
			conn := g.dial()
			c.peer(t, conn)
			conn.Close()
			select {
			case err := <-g.result:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Give: %v; want an error with %q", err, c.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("Give still waits")
			}
			select {
			case <-g.left:
				t.Error("leave was called although nobody has taken over")
			default:
			}
		})
	}
}

func mustAsk(t *testing.T, c *control.Conn) {
	t.Helper()
	if err := c.Ask(Request, "test"); err != nil {
		t.Fatal(err)
	}
}

// receiveAll receives until all have been offered.
func receiveAll(t *testing.T, c *control.Conn) {
	t.Helper()
	for {
		var m handoverMessage
		fds, err := c.Receive(&m, 0)
		rights.Close(fds)
		if err != nil {
			t.Fatal(err)
		}
		if m.Phase == phaseOffered {
			return
		}
	}
}

// TestPeerLearnsWhyItIsGivenUp: an old daemon that serves on says so, and is not taken for one
// that has ended.
func TestPeerLearnsWhyItIsGivenUp(t *testing.T) {
	g := startGiver(t)
	s := g.begin()
	if err := s.conn.Send(handoverMessage{Phase: "dancing"}); err != nil {
		t.Fatal(err)
	}
	if err := <-g.result; err == nil {
		t.Fatal("Give has handed over to one that does not accept")
	}
	if s.Gone() {
		t.Error("the old daemon counts as gone, before its answer is read")
	}
	if err := s.Accepting(); err == nil || !strings.Contains(err.Error(), `said "dancing"`) {
		t.Errorf("Accepting: %v; want why the old daemon has given up on us", err)
	}
	if s.Gone() {
		t.Error("the old daemon counts as gone, after its answer")
	}
	s.GiveUp(errors.New("over"))
	if s.Gone() {
		t.Error("the old daemon counts as gone, after we have ended the conversation")
	}
}

// TestOldDaemonStops: one that ends amid the handover says nothing, so it is gone.
func TestOldDaemonStops(t *testing.T) {
	g := startGiver(t)
	s := g.begin()
	if s.Gone() {
		t.Error("the old daemon counts as gone while it waits for us")
	}
	g.stop()
	<-g.result
	g.end() // which closes its conversations
	if !s.Gone() {
		t.Error("the old daemon has ended, and does not count as gone")
	}
	s.GiveUp(errors.New("over"))
}

// TestOldDaemonEndsBeforeItIsAsked closes the conversation before the request comes.
func TestOldDaemonEndsBeforeItIsAsked(t *testing.T) {
	dir := daemontest.RunDir(t)
	path := dir.Path(dir.Socket(""))
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c, err := control.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	old, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	if _, err := Begin(t.Context(), c, "test", NewSet()); !errors.Is(err, ErrGone) {
		t.Errorf("Begin: %v; want ErrGone", err)
	}
}

// TestBeginFails has the old daemon fail at each step.
func TestBeginFails(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, c := range map[string]struct {
		daemon func(*control.Conn)
		want   string
	}{
		"leaves":  {func(*control.Conn) {}, "ended the conversation"},
		"refuses": {func(c *control.Conn) { _ = c.Send(control.AnswerOf(errors.New("busy"))) }, "busy"},
		"sends fewer descriptors than it says": {func(c *control.Conn) {
			_ = c.Send(handoverMessage{Sockets: []Socket{{Role: Fixed}, {Role: Host}}}, int(file.Fd()))
		}, "2 sockets had 1 descriptors"},
		"sends what does not listen": {func(c *control.Conn) {
			_ = c.Send(handoverMessage{Sockets: []Socket{{Role: Fixed}}}, int(file.Fd()))
		}, "does not listen"},
		"sends garbage": {func(c *control.Conn) { _ = c.Send([]int{1}) }, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := daemontest.RunDir(t)
			socket := dir.Path(dir.Socket(""))
			listener, err := control.Listen(dir, dir.Socket(""), nil)
			if err != nil {
				t.Fatal(err)
			}
			s := &control.Server{Log: slog.New(slog.DiscardHandler), Handlers: map[string]control.Handler{
				Request: func(_ context.Context, conn *control.Conn, _ control.Request) { c.daemon(conn) },
			}}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); s.Serve(ctx, ctx, listener.UnixListener) }()
			defer func() { cancel(); <-done; listener.Release() }()
			conn, err := control.Dial(socket)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Begin(t.Context(), conn, "test", NewSet()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Begin: %v; want an error with %q", err, c.want)
			}
		})
	}
}

// TestAcceptingIsNotUnderstood: without the old daemon's word that it leaves, it serves
// on, and the new one must know.
func TestAcceptingIsNotUnderstood(t *testing.T) {
	g := startGiver(t)
	s := g.begin()
	s.conn.Close()
	if err := s.Accepting(); err == nil || !strings.Contains(err.Error(), "has not let go") {
		t.Errorf("Accepting: %v", err)
	}
	if err := <-g.result; err == nil {
		t.Error("Give has handed over to nobody")
	}
}

func TestNames(t *testing.T) {
	for _, s := range []Socket{
		{Role: Redirect, Namespace: netns.ID{Dev: 4, Inode: 4026532281}},
		{Role: Listen, Namespace: netns.ID{Dev: 4, Inode: 1}},
		{Role: Fixed},
	} {
		for _, addr := range []string{"127.0.0.1:61000", "[::1]:61000", "[::]:80", "[fe80::1%eth0]:80"} {
			name := s.Name(netip.MustParseAddrPort(addr))
			if strings.Contains(name, ":") || len(name) > 255 {
				t.Errorf("%q is no name of a descriptor", name)
			}
			if got := ParseName(name); got != s {
				t.Errorf("ParseName(%q) = %+v; want %+v", name, got, s)
			}
		}
	}
	for _, name := range []string{"", "redis", "LISTEN_FD_3", "host-0-0-169.254.77.1-61000", "redirect-x-1-127.0.0.1-1", "lock-0-0-a-1"} {
		if got := ParseName(name); got != (Socket{Role: Fixed}) {
			t.Errorf("ParseName(%q) = %+v; want a fixed socket", name, got)
		}
	}
}

func TestAt(t *testing.T) {
	for _, c := range []struct {
		configured, socket string
		fits               bool
	}{
		{":6379", "[::]:6379", true},
		{":6379", "0.0.0.0:6379", true},
		{":6379", "127.0.0.1:6379", false},
		{":6379", "[::]:6380", false},
		{"127.0.0.1:6379", "127.0.0.1:6379", true},
		{"127.0.0.1:6379", "[::]:6379", false},
		{"[::1]:6379", "[::1]:6379", true},
		{"[fe80::1%eth0]:6379", "[fe80::1]:6379", true},
		{"garbage", "[::]:6379", false},
	} {
		if got := At(c.configured)(netip.MustParseAddrPort(c.socket)); got != c.fits {
			t.Errorf("At(%q)(%s) = %t", c.configured, c.socket, got)
		}
	}
}
