package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/settings"
)

const listenAnywhere = "127.0.0.1:0"

// running is a daemon with one fixed listener, which has its sockets in a folder of the test's.
type running struct {
	log   daemontest.Log
	stop  context.CancelFunc
	ended chan error
}

func runIn(t *testing.T, dir *rundir.Dir, target string, change func(*config.Config)) *running {
	t.Helper()
	cfg := config.Default()
	cfg.Modes, cfg.RunDir = nil, dir.String()
	cfg.DockerHost = "unix:///nonexistent.sock"
	cfg.Listeners = []config.Listener{{Address: listenAnywhere, Target: target}}
	change(&cfg)
	r := &running{ended: make(chan error, 1)}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(t.Context())
	go func() { r.ended <- Run(ctx, cfg, slog.New(slog.NewTextHandler(&r.log, nil)), Hooks{}) }()
	return r
}

func (r *running) wantNoError(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("told to stop it ended with: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("told to stop it still runs after 20 s; the log is\n%s", &r.log)
	}
}

const (
	saysItWaits  = "serving in its place as soon as it has ended"
	saysItServes = "the old daemon has ended; serving in its place"
)

// TestSuccessionIsToldOnce has the old daemon break off each takeover, as one that drains
// does, and end at last: the new one says once what it waits for, and once that it serves.
func TestSuccessionIsToldOnce(t *testing.T) {
	dir := daemontest.RunDir(t)
	path := dir.Path(dir.Socket(listenAnywhere))
	// It has no lock, so there is no wait for its end between one attempt and the next.
	old, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	next := runIn(t, dir, "192.0.2.1:1", func(cfg *config.Config) { cfg.TakeOver = true })
	defer next.stop()
	for range 3 {
		_ = old.SetDeadline(time.Now().Add(20 * time.Second))
		conn, err := old.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(next.log.String(), saysItServes) {
			t.Error("it says that it serves while the old daemon is there")
		}
		_, _ = conn.Read(make([]byte, 1000))
		conn.Close()
	}
	old.Close()
	next.log.Wait(t, "msg=ready")
	next.stop()
	next.wantNoError(t)
	for _, said := range []string{saysItWaits, saysItServes} {
		if n := strings.Count(next.log.String(), said); n != 1 {
			t.Errorf("%q is said %d times; want once. The log is\n%s", said, n, &next.log)
		}
	}
}

// TestStopAmidTakeover: a daemon that is told to stop while the one before it does not answer,
// or has broken off and is yet to end, has not failed.
func TestStopAmidTakeover(t *testing.T) {
	for name, breaksOff := range map[string]bool{"no answer": false, "no end": true} {
		t.Run(name, func(t *testing.T) {
			dir := daemontest.RunDir(t)
			old, err := control.Listen(dir, dir.Socket(listenAnywhere), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer old.Release()
			next := runIn(t, dir, "192.0.2.1:1", func(cfg *config.Config) { cfg.TakeOver = true })
			defer next.stop()
			_ = old.SetDeadline(time.Now().Add(20 * time.Second))
			conn, err := old.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1000))
			if breaksOff {
				conn.Close()
				next.log.Wait(t, saysItWaits)
			}
			next.stop()
			next.wantNoError(t)
			if strings.Contains(next.log.String(), saysItServes) {
				t.Error("it says that it serves while the old daemon is there")
			}
		})
	}
}

// carry waits until the daemon is ready, and opens a connection to backend through it that lasts as
// long as the test.
func (r *running) carry(t *testing.T, backend net.Listener) (client net.Conn) {
	t.Helper()
	r.log.Wait(t, "msg=ready")
	_, rest, _ := strings.Cut(r.log.String(), "msg=listening")
	_, rest, _ = strings.Cut(rest, "address=")
	live, err := net.Dial("tcp", strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { live.Close() })
	served, err := backend.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { served.Close() })
	return live
}

// takeOverFrom begins to take over from the daemon that has its sockets in dir.
func takeOverFrom(t *testing.T, dir *rundir.Dir) *handover.Session {
	t.Helper()
	c, err := control.Dial(dir.Path(dir.Socket(listenAnywhere)))
	if err != nil {
		t.Fatal(err)
	}
	session, err := handover.Begin(t.Context(), c, "test", handover.NewSet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	t.Cleanup(session.Set.Close)
	return session
}

const saysItAwaits = "stopping as soon as the daemon that takes over accepts"

// TestStopAfterHandover: a daemon that has handed over, and is told to stop while it carries a
// connection still, waits for no daemon that takes over, and does not say that it does.
func TestStopAfterHandover(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	dir := daemontest.RunDir(t)
	old := runIn(t, dir, backend.Addr().String(), func(cfg *config.Config) { cfg.DrainTimeout = 10 * time.Millisecond })
	defer old.stop()
	old.carry(t, backend)
	session := takeOverFrom(t, dir)
	if err := session.Accepting(); err != nil {
		t.Fatal(err)
	}
	if err := session.Finish(); err != nil {
		t.Fatal(err)
	}
	old.log.Wait(t, `msg="handed over"`)
	old.stop()
	old.wantNoError(t)
	if strings.Contains(old.log.String(), saysItAwaits) {
		t.Errorf("it says that it waits for a daemon that has taken over; the log is\n%s", &old.log)
	}
}

// TestStopAmidLeaving: a daemon that is told to stop while it leaves the work to the next one, which
// accepts and is yet to be told of the last sockets, goes on until that is done: its context is
// that of the conversation, and of the work that is being left.
func TestStopAmidLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, before := range map[string][]giverEvent{
			"told before":    {asked, ends, accepts, leaves},
			"told meanwhile": {asked, accepts, leaves},
		} {
			d := waiting()
			d.parts = &parts{log: slog.New(slog.DiscardHandler), settings: settings.NewCurrent(settings.New(config.Default(), nil, nil))}
			for _, e := range before {
				d.giver.on(e)
			}
			done := make(chan struct{})
			go func() { defer close(done); d.awaitSuccessor(t.Context()) }()
			synctest.Wait()
			select {
			case <-done:
				t.Fatalf("%s: it ends while the new daemon is told of the last sockets", name)
			default:
			}
			d.giver.on(hasAll)
			<-done
		}
	})
}

// inProcess is a daemon with a listener that leads to target, and what it logs. It is ready.
func inProcess(t *testing.T, dir *rundir.Dir, target string, takeOver bool) (d *daemon, logged *daemontest.Log, ended <-chan error, end func()) {
	t.Helper()
	cfg := config.Default()
	cfg.Modes, cfg.RunDir, cfg.DockerHost, cfg.TakeOver = nil, dir.String(), "unix:///nonexistent.sock", takeOver
	cfg.Listeners = []config.Listener{{Address: listenAnywhere, Target: target}}
	logged = &daemontest.Log{}
	ctx, cancel := context.WithCancel(context.Background())
	ready, over := make(chan struct{}), make(chan error, 1)
	d, stop, err := start(ctx, cfg, slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug})), Hooks{Ready: func() { close(ready) }})
	if err != nil {
		t.Fatal(err)
	}
	finished := make(chan struct{})
	go func() { defer close(finished); over <- d.serve(ctx); stop() }()
	t.Cleanup(func() { cancel(); <-finished })
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatalf("not ready after 20 s; the log is\n%s", logged)
	}
	return d, logged, over, cancel
}

// TestCountersSurviveTakeover: the counters of a daemon that takes over begin where the old one's were,
// and have what that one carries to its end, to the byte. Those of a daemon that is started after that has ended
// go on, too.
func TestCountersSurviveTakeover(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
	defer backend.Close()
	dial := func(d *daemon) net.Conn {
		conn, err := net.Dial("tcp", snapshot(d).Listeners[0].Listens.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	exchange := func(conn net.Conn, n int) {
		if _, err := conn.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, d *daemon, opened, closed, bytes int) {
		t.Helper()
		w := httptest.NewRecorder()
		d.metrics.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for _, line := range []string{
			fmt.Sprintf("ambassadord_connections_opened_total %d\n", opened),
			fmt.Sprintf("ambassadord_connections_closed_total %d\n", closed),
			fmt.Sprintf("ambassadord_sent_bytes_total %d\n", bytes),
			fmt.Sprintf("ambassadord_received_bytes_total %d\n", bytes),
			fmt.Sprintf("ambassadord_client_sent_bytes_total{client=\"_none\",project=\"\",service=\"\",target=%q} %d\n", backend.Addr(), bytes),
		} {
			if !strings.Contains(w.Body.String(), line) {
				t.Errorf("%s: no line %sin\n%s", when, line, w.Body)
			}
		}
	}
	dir := daemontest.RunDir(t)
	old, oldLog, ended, _ := inProcess(t, dir, backend.Addr().String(), false)
	first, live := dial(old), dial(old)
	exchange(first, 5)
	first.Close()
	oldLog.Wait(t, "msg=connection")
	exchange(live, 7)
	next, logged, nextEnded, stop := inProcess(t, dir, backend.Addr().String(), true)
	want("taken over", next, 2, 1, 12)
	exchange(live, 11) // the old one carries it
	live.Close()
	if err := <-ended; err != nil {
		t.Errorf("the old daemon ended with %v", err)
	}
	logged.Wait(t, "all that the old daemon has counted")
	want("the old one has ended", next, 2, 2, 23)
	conn := dial(next)
	exchange(conn, 100)
	want("by itself", next, 3, 2, 123)
	conn.Close()
	stop()
	if err := <-nextEnded; err != nil {
		t.Errorf("the new daemon ended with %v", err)
	}
	restarted, _, _, _ := inProcess(t, dir, backend.Addr().String(), false)
	want("started again", restarted, 3, 3, 123)
	if text, err := dir.TakeNote(dir.Counters(listenAnywhere), 1000); text != nil || err != nil {
		t.Errorf("the counters that were left are there still: %s, %v", text, err)
	}
}

// TestFailedStartKeepsCounters: a daemon that cannot start leaves the counters of the one before for the next.
func TestFailedStartKeepsCounters(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := daemontest.RunDir(t)
	note := dir.Counters(taken.Addr().String())
	if err := dir.WriteNote(note, []byte("{}\n")); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Modes, cfg.RunDir, cfg.DockerHost = nil, dir.String(), "unix:///nonexistent.sock"
	cfg.Listeners = []config.Listener{{Address: taken.Addr().String(), Target: "127.0.0.1:1"}}
	if err := Run(t.Context(), cfg, slog.New(slog.DiscardHandler), Hooks{}); err == nil {
		t.Error("it has started at an address that is another's")
	}
	if text, err := dir.TakeNote(note, 10); string(text) != "{}\n" || err != nil {
		t.Errorf("the counters that were left are %q, %v", text, err)
	}
}

// TestTakeoverAndDrainShareATime stops a daemon from which another takes over that never
// accepts, while it carries a connection that never ends: it takes Config.DrainTimeout once.
func TestTakeoverAndDrainShareATime(t *testing.T) {
	const drain = 3 * time.Second
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	dir := daemontest.RunDir(t)
	old := runIn(t, dir, backend.Addr().String(), func(cfg *config.Config) { cfg.DrainTimeout = drain })
	defer old.stop()
	live := old.carry(t, backend)
	takeOverFrom(t, dir)
	began := time.Now()
	old.stop()
	old.wantNoError(t)
	if took := time.Since(began); took < drain || took > drain*5/3 {
		t.Errorf("it took %s to stop; want the drain timeout, %s, once", took, drain)
	}
	_ = live.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(live); err == nil {
		t.Error("the connection has ended in peace; want that it is reset")
	}
}

// TestNamesOfTheControlSocket: a daemon is found by each of its addresses but those whose name
// another process has, which one line of the log tells of.
func TestNamesOfTheControlSocket(t *testing.T) {
	const another = "127.0.0.2:0"
	for name, test := range map[string]struct {
		held []string
		says string // "" for nothing
	}{
		"all":       {nil, ""},
		"not one":   {[]string{listenAnywhere}, "addresses=1 first=" + listenAnywhere},
		"not other": {[]string{another}, "addresses=1 first=" + another},
		"none":      {[]string{listenAnywhere, another}, "can be neither reloaded nor taken over"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := daemontest.RunDir(t)
			for _, address := range test.held {
				lock, err := dir.Take(strings.TrimSuffix(dir.Socket(address), ".sock") + ".lock")
				if err != nil {
					t.Fatal(err)
				}
				defer lock.Release()
			}
			d := runIn(t, dir, "127.0.0.1:9", func(cfg *config.Config) {
				cfg.Listeners = append(cfg.Listeners, config.Listener{Address: another, Target: cfg.Listeners[0].Target})
			})
			defer d.stop()
			d.log.Wait(t, "msg=ready")
			for _, address := range []string{listenAnywhere, another} {
				c, err := control.Dial(dir.Path(dir.Socket(address)))
				if err == nil {
					c.Close()
				}
				if held := slices.Contains(test.held, address); (err != nil) != held {
					t.Errorf("%s: %v; want nobody there: %t", address, err, held)
				}
			}
			if warned := strings.Count(d.log.String(), "level=WARN"); !strings.Contains(d.log.String(), test.says) || (warned > 0) != (test.says != "") || warned > 1 {
				t.Errorf("the log says %s; want %q in one warning", d.log.String(), test.says)
			}
			d.stop()
			d.wantNoError(t)
		})
	}
}
