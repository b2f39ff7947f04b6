package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/accesslog"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/failures"
	"github.com/ambassadord/ambassadord/internal/metrics"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

// peer is another process, which is the endpoint of connections and their client: two
// descriptors of each are its own, since a process may not have as many as all four take.
type peer struct {
	address string // of the endpoint
	in      io.WriteCloser
	out     *bufio.Scanner
}

// asPeer says in the environment that this process is one.
const asPeer = "AMBASSADORD_TEST_PEER"

func startPeer(t testing.TB) *peer {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), asPeer+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &peer{in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	p.address = p.line(t)
	return p
}

func (p *peer) line(t testing.TB) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("the peer has ended: %v", p.out.Err())
	}
	return p.out.Text()
}

// dial has it make n connections to address, which lead back to it, and say hello on each.
func (p *peer) dial(t testing.TB, address string, n int) {
	t.Helper()
	fmt.Fprintln(p.in, address, n)
	if said := p.line(t); said != "done" {
		t.Fatalf("the peer says: %s", said)
	}
}

// bePeer is the other process.
func bePeer() error {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, backend.Addr())
	go func() {
		for {
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	var address string
	var n int
	var kept []net.Conn // or the garbage collector would close them
	defer func() { runtime.KeepAlive(kept) }()
	for {
		if _, err := fmt.Scanln(&address, &n); err != nil {
			return nil // the test has ended
		}
		for i := range n {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			kept = append(kept, conn)
			if _, err := conn.Write([]byte("hello")); err != nil {
				return err
			}
			if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
		fmt.Fprintln(os.Stdout, "done")
	}
}

// carrying is a daemon that serves one listener, with n live connections through it.
func carrying(t testing.TB, n int) *daemon {
	t.Helper()
	p := startPeer(t)
	cfg := config.Default()
	cfg.Modes, cfg.DockerHost, cfg.RunDir, cfg.DrainTimeout = nil, "unix:///nonexistent.sock", t.TempDir(), 0
	cfg.Listeners = []config.Listener{{Address: "127.0.0.1:0", Target: p.address}}
	ready, ended := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	d, stop, err := start(ctx, cfg, slog.New(slog.DiscardHandler), Hooks{Ready: func() { close(ready) }})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- d.serve(ctx) }()
	t.Cleanup(func() { cancel(); <-ended; stop() })
	<-ready
	p.dial(t, snapshot(d).Listeners[0].Listens.String(), n)
	return d
}

// declaring has d know of so many containers, each with ten ports.
func declaring(t testing.TB, d *daemon, containers int) {
	t.Helper()
	all := make([]*dockerd.Container, containers)
	for i := range all {
		labels := map[string]string{"connect.x": "a mistake"}
		for j := range 10 {
			labels[fmt.Sprint("connect.", j+1)] = fmt.Sprintf("10.0.%d.%d:80", i%20, j)
		}
		all[i] = routetest.Labelled(fmt.Sprintf("c%03d", i), labels)
		all[i].NetworkMode = "none"
	}
	for snapshot := dockerd.NewSnapshot(all...); !d.follower.act(t.Context(), t.Context(), d.settings.Load(), snapshot); {
	}
}

// TestSnapshot has all that there is, and asks nobody.
func TestSnapshot(t *testing.T) {
	d := carrying(t, 3)
	declaring(t, d, 2)
	s := snapshot(d)
	if !s.Daemon.Ready || s.Daemon.HandOver != "none" || s.Daemon.Engine != nil || len(s.Listeners) != 1 {
		t.Errorf("the daemon is %+v with the listeners %+v", s.Daemon, s.Listeners)
	}
	if len(s.Connections) != 3 {
		t.Fatalf("%d connections; want 3", len(s.Connections))
	}
	for _, c := range s.Connections {
		if c.Up != 5 || c.Down != 5 || c.Route.Target != s.Listeners[0].Target || c.Endpoint.Addr.String() != s.Listeners[0].Target || time.Since(c.Accepted) > time.Minute {
			t.Errorf("connection %+v", c)
		}
	}
	if len(s.Containers) != 2 || s.Containers[0].Name != "c000" || len(s.Containers[0].Bindings) != 10 ||
		len(s.Containers[0].Problems) != 1 || !strings.Contains(s.Containers[0].Problems[0].Error, "x") {
		t.Errorf("containers %+v", s.Containers)
	}
	if len(s.Targets) != 1+20 {
		t.Errorf("%d targets; want the listener's, and twenty of containers", len(s.Targets))
	}
	for _, one := range s.Targets {
		known := one.Status.Queries[0]
		if declared := one.Clients > 0; declared != known.Unwatched { // the daemon keeps none of a container's without a mode
			t.Errorf("target %s of %d clients is watched: %t", one.Meaning, one.Clients, !known.Unwatched)
		}
	}
	if len(s.Pools) != 1 || len(s.Pools[0].Members) != 1 || s.Pools[0].Members[0].Health.Open != 3 {
		t.Errorf("pools %+v", s.Pools)
	}
	if len(s.Limits) < 2 || s.Limits[0].Open != 3 {
		t.Errorf("limits %+v", s.Limits)
	}
}

// TestSnapshotAsJSON: what a daemon knows can be given to another program.
func TestSnapshotAsJSON(t *testing.T) {
	d := carrying(t, 3)
	declaring(t, d, 2)
	s := snapshot(d)
	line, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Taken      time.Time
		Daemon     struct{ Ready bool }
		Listeners  []struct{ Listens string }
		Containers []status.Container
		Targets    []struct{ Meaning string }
		Pools      []struct {
			Members []struct{ Health struct{ Open int } }
		}
		Connections []struct {
			Source, Endpoint, Target, Held string
			Up                             int64 `json:"bytes_up"`
		}
		Limits []struct{ Limit string }
	}
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if !got.Taken.Equal(s.Taken) || !got.Daemon.Ready || len(got.Listeners) != 1 || got.Listeners[0].Listens != s.Listeners[0].Listens.String() ||
		len(got.Targets) != len(s.Targets) || len(got.Limits) != len(s.Limits) || got.Pools[0].Members[0].Health.Open != 3 {
		t.Errorf("decoded %+v", got)
	}
	if diff := cmp.Diff(s.Containers, got.Containers); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
	for i, c := range got.Connections {
		of := s.Connections[i]
		if held, err := time.ParseDuration(c.Held); c.Source != of.Source.String() || c.Endpoint != of.Endpoint.Addr.String() ||
			c.Target != of.Route.Target || c.Up != 5 || held != of.Held || err != nil {
			t.Errorf("connection %+v; want %+v", c, of)
		}
	}
}

// TestSnapshotOfNothing: a daemon that knows nobody yet has one, too.
func TestSnapshotOfNothing(t *testing.T) {
	if s := status.Take((&daemon{parts: &parts{}}).clients.Load()); len(s.Containers) != 0 || s.Taken.IsZero() {
		t.Errorf("%+v", s)
	}
}

// BenchmarkSnapshot is what it costs to look at all, on a busy host. It is to take no more than
// 20 ms, and what it allocates to be in proportion.
func BenchmarkSnapshot(b *testing.B) {
	for _, size := range []struct{ containers, connections int }{{5, 90}, {50, 900}, {500, 4_500}} {
		b.Run(fmt.Sprintf("%dx%d", size.containers, size.connections), func(b *testing.B) {
			d := carrying(b, size.connections)
			declaring(b, d, size.containers)
			b.ReportAllocs()
			for b.Loop() {
				if s := snapshot(d); len(s.Connections) != size.connections || len(s.Containers) != size.containers {
					b.Fatalf("%d connections and %d containers", len(s.Connections), len(s.Containers))
				}
			}
		})
	}
}

// TestReadinessNamesWhatIsMissing: each thing that the daemon waits for is named, and nothing once it serves.
func TestReadinessNamesWhatIsMissing(t *testing.T) {
	d := &daemon{parts: &parts{modes: []config.Mode{config.Redirect}}, giver: newGiver(), readied: make(chan struct{}), follower: &follower{followed: make(chan struct{})}}
	d.hold.Engine = awayEngine{errors.New("the engine is away")}
	names := func() string {
		var all []string
		for _, one := range (reporter{d}).notReady() {
			all = append(all, one.What)
		}
		return strings.Join(all, " ")
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "engine containers service"},
		{func() { close(d.follower.followed) }, "engine service"},
		{func() { close(d.readied) }, "engine"},
		{func() { d.hold.Engine = awayEngine{} }, ""},
		{func() { d.giver.on(asked) }, ""},
		{func() { d.giver.on(accepts) }, "handover"},
		{func() { d.giver = newGiver(); d.giver.on(ends) }, "end"},
		{func() { d.giver = newGiver(); d.modes = nil; d.hold.Engine = awayEngine{errors.New("away")} }, ""},
	} {
		step.do()
		if got := names(); got != step.want {
			t.Errorf("not ready: %q; want %q", got, step.want)
		}
	}
}

// awayEngine is an engine that is away if there is an error.
type awayEngine struct{ err error }

func (a awayEngine) Away() error                 { return a.err }
func (a awayEngine) Snapshot() *dockerd.Snapshot { return nil }
func (a awayEngine) Changed() <-chan struct{}    { return nil }

// TestOnlyFailuresAreRemembered: a connection that ends well costs nothing but its line, and one that
// fails is in the status.
func TestOnlyFailuresAreRemembered(t *testing.T) {
	var failed failures.Last
	s, _, err := newServer(config.Default(), metrics.New(metrics.Options{Log: slog.New(slog.DiscardHandler)}), accesslog.New(slog.New(slog.DiscardHandler), nil), &failed, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	record := proxy.Record{Route: proxy.Route{Client: proxy.Client{Name: "app", ID: "0123456789ab"}, Port: 6379}}
	if n := testing.AllocsPerRun(1000, func() { s.Done(record) }); n != 0 {
		t.Errorf("%v allocations at the end of a connection that ended well; want none", n)
	}
	record.Err = proxy.Fail(proxy.NoEndpoints, errors.New("nobody"))
	s.Done(record)
	snapshot := status.Take(&failed)
	if len(snapshot.Failures) != 1 || snapshot.Failures[0].Client != "app" || snapshot.Failures[0].Reason != proxy.NoEndpoints {
		t.Errorf("remembered %+v; want the one that failed", snapshot.Failures)
	}
	record.Err, record.Ended = nil, time.Now()
	if n := testing.AllocsPerRun(1000, func() { s.Done(record) }); n != 0 {
		t.Errorf("%v allocations at the end of one that ended well, after others that have not", n)
	}
	if snapshot := status.Take(&failed); snapshot.Failures[0].Served.IsZero() {
		t.Error("a later connection ended well, and that is not known")
	}
}
