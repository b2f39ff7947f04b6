package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/internal/status"
)

// named listens at 127.0.0.1 and answers each line with name.
func named(t *testing.T, name string) (address string) {
	t.Helper()
	return servertest.Named(t, servertest.Listen(t), name).String()
}

// ask sends a line on conn and returns the answer.
func ask(t *testing.T, conn net.Conn) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintln(conn, "who?"); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// remembered is a log handler that remembers what was said.
type remembered struct {
	mu      sync.Mutex
	records []string // MESSAGE KEY=VALUE …
}

func (l *remembered) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, text)
	return nil
}
func (l *remembered) Enabled(context.Context, slog.Level) bool { return true }
func (l *remembered) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *remembered) WithGroup(string) slog.Handler            { return l }

// said returns the last record that begins with prefix.
func (l *remembered) said(prefix string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range slices.Backward(l.records) {
		if strings.HasPrefix(text, prefix) {
			return text
		}
	}
	return ""
}

// reloadable is a daemon of fixed listeners whose configuration can be changed.
type reloadable struct {
	*daemon
	log  *remembered
	cfg  config.Config
	err  error
	told []config.Config // by Hooks.Applied
}

func startReloadable(t *testing.T, listeners ...config.Listener) *reloadable {
	t.Helper()
	cfg := config.Default()
	cfg.Modes, cfg.Listeners, cfg.DockerHost = nil, listeners, "unix:///nonexistent.sock"
	r := &reloadable{log: new(remembered), cfg: cfg}
	hooks := Hooks{
		Load:    func() (config.Config, error) { return r.cfg, r.err },
		Applied: func(cfg config.Config) { r.told = append(r.told, cfg) },
	}
	ready := make(chan struct{})
	hooks.Ready = func() { close(ready) }
	d, stop, err := start(t.Context(), cfg, slog.New(r.log), hooks)
	if err != nil {
		t.Fatal(err)
	}
	r.daemon = d
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := d.reloads.reload(t.Context()); err == nil {
			t.Error("a daemon that has stopped reads its configuration again")
		}
		stop()
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return r
}

// at is where the listener configured as address listens, "" if it does not.
func (r *reloadable) at(address string) string {
	if l := r.listener(address); l != nil {
		return l.Listens.String()
	}
	return ""
}

// listener is what is known of the listener configured as address, nil if there is none.
func (r *reloadable) listener(address string) *status.Listener {
	for _, l := range snapshot(r.daemon).Listeners {
		if l.Address == address {
			return &l
		}
	}
	return nil
}

func refuses(address string) bool {
	_, err := net.Dial("tcp", address)
	return errors.Is(err, syscall.ECONNREFUSED)
}

// Addresses of their own, so that each can have any port.
const (
	first  = "127.0.0.1:0"
	second = "127.0.0.2:0"
	third  = "127.0.0.3:0"
)

func TestReloadChangesListenersAroundLiveConnections(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	r := startReloadable(t, config.Listener{Address: first, Target: a}, config.Listener{Address: second, Target: a})
	kept, gone := r.at(first), r.at(second)
	live, leaving := dial(t, kept), dial(t, gone)
	for _, conn := range []net.Conn{live, leaving} {
		if got := ask(t, conn); got != "a" {
			t.Fatalf("connected to %q; want a", got)
		}
	}

	r.cfg.Listeners = []config.Listener{{Address: first, Target: b}, {Address: third, Target: b}}
	r.cfg.DrainTimeout = time.Second
	if err := r.reloads.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := r.at(first); now != kept {
		t.Errorf("the listener that stayed is at %s now; it was at %s", now, kept)
	}
	if got := ask(t, dial(t, kept)); got != "b" {
		t.Errorf("a new connection reaches %q; want b, the new target", got)
	}
	if got := ask(t, dial(t, r.at(third))); got != "b" {
		t.Errorf("the new listener leads to %q; want b", got)
	}
	if !refuses(gone) {
		t.Error("the listener that is gone still accepts")
	}
	for _, conn := range []net.Conn{live, leaving} {
		if got := ask(t, conn); got != "a" {
			t.Errorf("a live connection reaches %q; want a still", got)
		}
	}
	if len(r.told) != 1 || r.told[0].DrainTimeout != time.Second || r.settings.Load().Config.DrainTimeout != time.Second {
		t.Errorf("told of %v; want the new configuration once", r.told)
	}
	if r.log.said("read the configuration again") == "" || r.log.said("some settings") != "" {
		t.Errorf("the log says %q", r.log.records)
	}
}

func TestReloadOptions(t *testing.T) {
	a := named(t, "a")
	r := startReloadable(t, config.Listener{Address: first, Target: a})
	if got := r.listener(first).Options; got != option.Default() {
		t.Errorf("options %+v; want the built-in ones", got)
	}
	r.cfg.Defaults = []option.Layer{{{Name: "wait", Text: "7s"}, {Name: "timeout", Text: "8s"}}}
	r.cfg.Targets = []config.TargetOptions{{Target: a, Options: option.Layer{{Name: "timeout", Text: "9s"}}}}
	r.cfg.Listeners = []config.Listener{{Address: first, Target: a, Options: option.Layer{{Name: "queue", Text: "5"}}}}
	before := r.settings.Load()
	if err := r.reloads.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := option.Default()
	want.Wait, want.Timeout, want.Queue = 7*time.Second, 9*time.Second, 5
	if got := r.listener(first).Options; got != want {
		t.Errorf("options %+v\nwant %+v", got, want)
	}
	select {
	case <-before.Replaced():
	default:
		t.Error("those who follow the old configuration are not told")
	}
	if r.settings.Load().Layers == before.Layers {
		t.Error("the layers are the old ones, so that no binding would be read again")
	}
}

// TestReloadRefuses: with any mistake everything stays as it was.
func TestReloadRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	a, b := named(t, "a"), named(t, "b")
	for name, test := range map[string]struct {
		spoil func(r *reloadable)
		want  string
	}{
		"broken file":   {func(r *reloadable) { r.err = hint.Errorf("mend it", "f.yml:3:1: unknown key") }, "f.yml:3:1: unknown key"},
		"nothing to do": {func(r *reloadable) { r.cfg.Listeners = nil }, "nothing to listen for"},
		"port in use": {func(r *reloadable) {
			r.cfg.Listeners = append(r.cfg.Listeners, config.Listener{Address: taken.Addr().String(), Target: b, Origin: "f.yml:9:3"})
		}, "f.yml:9:3: listen on " + taken.Addr().String()},
		"bad target": {func(r *reloadable) {
			r.cfg.Listeners[0] = config.Listener{Address: first, Target: "nowhere://x", Origin: "f.yml:2:1"}
		}, "f.yml:2:1: target"},
		"target's options": {func(r *reloadable) {
			r.cfg.Targets = []config.TargetOptions{{Target: "dcker://x:1", Origin: "f.yml:4:1"}}
		}, "f.yml:4:1: target"},
		"target twice": {func(r *reloadable) {
			r.cfg.Targets = []config.TargetOptions{{Target: "a:1,b:2", Origin: "f.yml:4:1"}, {Target: "a:1, b:2", Origin: "f.yml:5:1"}}
		}, "f.yml:5:1: \"a:1, b:2\" is the target of f.yml:4:1 too"},
		"contradiction": {func(r *reloadable) {
			r.cfg.Defaults = []option.Layer{{{Name: "eject-for", Text: "1h", Origin: "f.yml:2:3"}}}
		}, "f.yml:2:3: eject-for is 1h"},
		"needs the engine": {func(r *reloadable) {
			r.cfg.Listeners = append(r.cfg.Listeners, config.Listener{Address: third, Target: "docker://web:80", Origin: "f.yml:9:3"})
		}, "started without one"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReloadable(t, config.Listener{Address: first, Target: a}, config.Listener{Address: second, Target: a})
			kept, current := r.at(first), r.settings.Load()
			r.cfg.Listeners = []config.Listener{{Address: first, Target: b}, {Address: third, Target: b}}
			test.spoil(r)
			err := r.reloads.reload(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || hint.Of(err) == "" {
				t.Errorf("reload = %v (%s); want %q and a hint", err, hint.Of(err), test.want)
			}
			if text := r.log.said("cannot read the configuration again"); !strings.Contains(text, test.want) {
				t.Errorf("the log says %q; want %q", text, test.want)
			}
			if r.settings.Load() != current || len(r.told) > 0 || r.at(third) != "" || r.at(second) == "" {
				t.Errorf("something has changed: %+v", r.listeners)
			}
			refused := r.reloads.configuration()
			if !errors.Is(refused.Refused, err) || !refused.Read.Before(time.Now()) {
				t.Errorf("the configuration is said to be %+v; want that of the start, and why another does not hold", refused)
			}
			if got := ask(t, dial(t, kept)); got != "a" {
				t.Errorf("a new connection reaches %q; want a still", got)
			}
			if got := ask(t, dial(t, r.at(second))); got != "a" {
				t.Errorf("a new connection to the other listener reaches %q; want a", got)
			}
		})
	}
}

// TestAGoodReloadMendsABrokenOne in what is said of it.
func TestAGoodReloadMendsABrokenOne(t *testing.T) {
	r := startReloadable(t, config.Listener{Address: first, Target: named(t, "a")})
	start := r.reloads.configuration()
	if start.Read.IsZero() || start.Refused != nil {
		t.Errorf("at the start the configuration is said to be %+v", start)
	}
	r.err = errors.New("broken")
	_ = r.reloads.reload(t.Context())
	r.err = nil
	if err := r.reloads.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := r.reloads.configuration(); now.Refused != nil || !now.Read.After(start.Read) {
		t.Errorf("after a good reload the configuration is said to be %+v; at the start it was %+v", now, start)
	}
}

// TestReloadOfAnAddressInTheWay: :PORT and 127.0.0.1:PORT exclude each other, so the
// one that leaves goes first, and comes back when the change fails.
func TestReloadOfAnAddressInTheWay(t *testing.T) {
	hold, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	port := servertest.FreePorts(t, 1)[0]
	a, b := named(t, "a"), named(t, "b")
	wide, narrow := ":"+port, "127.0.0.1:"+port
	r := startReloadable(t, config.Listener{Address: wide, Target: a})

	r.cfg.Listeners = []config.Listener{{Address: narrow, Target: b}, {Address: hold.Addr().String(), Target: b}}
	if err := r.reloads.reload(t.Context()); err == nil {
		t.Fatal("a port of another process is taken")
	}
	if got := ask(t, dial(t, narrow)); got != "a" {
		t.Errorf("after a change that failed a connection reaches %q; want a", got)
	}

	r.cfg.Listeners = r.cfg.Listeners[:1]
	if err := r.reloads.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, dial(t, narrow)); got != "b" {
		t.Errorf("a connection reaches %q; want b", got)
	}
	if !refuses(fmt.Sprintf("127.0.0.2:%s", port)) {
		t.Error("the wide listener still accepts")
	}
}

func TestReloadNamesWhatNeedsARestart(t *testing.T) {
	a := named(t, "a")
	r := startReloadable(t, config.Listener{Address: first, Target: a})
	r.cfg.Modes, r.cfg.ConsulAddr, r.cfg.MaxStale = []config.Mode{config.Host}, "consul:8500", time.Hour
	r.cfg.RepairInterval = time.Minute
	if err := r.reloads.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := r.log.said("some settings"); !strings.Contains(text, "settings=[consul-addr max-stale mode]") {
		t.Errorf("the log says %q; want the three settings", text)
	}
	if got := r.settings.Load().Config; got.RepairInterval != time.Minute || got.ConsulAddr != "" || len(got.Modes) > 0 {
		t.Errorf("%+v holds; want what can change, and the rest as it was", got)
	}
}

func TestReloadBySignal(t *testing.T) {
	cfg := config.Default()
	cfg.Modes, cfg.Listeners = nil, []config.Listener{{Address: first, Target: "192.0.2.1:1"}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	signals, loads := make(chan os.Signal, 1), make(chan struct{})
	signals <- syscall.SIGHUP // before it serves, which must not lose it
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, cfg, slog.New(slog.DiscardHandler), Hooks{
			Reload: signals,
			Load:   func() (config.Config, error) { loads <- struct{}{}; return cfg, nil },
		})
	}()
	<-loads
	signals <- syscall.SIGHUP
	<-loads
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}
