package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// addresses is a log handler that hands on the address of each listener.
type addresses struct {
	slog.Handler
	found chan string
}

func (a addresses) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "listening" {
		r.Attrs(func(attr slog.Attr) bool {
			if attr.Key == "address" {
				a.found <- attr.Value.String()
			}
			return true
		})
	}
	return nil
}

func (a addresses) Enabled(context.Context, slog.Level) bool { return true }

// TestRunForwardsAndLeavesNothing needs neither an engine nor iptables, which is
// the point: a fixed listener asks for neither. That no goroutine is left is for
// TestMain to say.
func TestRunForwardsAndLeavesNothing(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()

	cfg := config.Default()
	cfg.Modes = nil
	cfg.DockerHost = "unix:///nonexistent.sock"
	cfg.Listeners = []config.Listener{{Address: "127.0.0.1:0", Target: backend.Addr().String()}}
	handler := addresses{slog.DiscardHandler, make(chan string, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, slog.New(handler), Hooks{}) }()

	conn, err := net.Dial("tcp", <-handler.found)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v; want the echo", b, err)
	}
	conn.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunRefusesWhatCannotWork(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, listeners := range map[string][]config.Listener{
		"nothing to listen for": nil,
		"another process has this port": {
			{Address: "127.0.0.1:0", Target: "192.0.2.1:1"},
			{Address: taken.Addr().String(), Target: "192.0.2.1:1"},
		},
	} {
		cfg := config.Default()
		cfg.Modes, cfg.Listeners = nil, listeners
		err := Run(t.Context(), cfg, slog.New(slog.DiscardHandler), Hooks{})
		if err == nil || !strings.Contains(err.Error()+hint.Of(err), name) {
			t.Errorf("Run = %v (%s); want: %s", err, hint.Of(err), name)
		}
	}
}

func TestEffectiveModes(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct {
		modes                 []config.Mode
		inContainer, canEnter bool
		want                  []config.Mode
	}{
		{[]config.Mode{config.Auto}, false, true, []config.Mode{config.Redirect}},
		{[]config.Mode{config.Auto}, false, false, []config.Mode{config.Redirect}},
		{[]config.Mode{config.Auto}, true, true, []config.Mode{config.Link, config.Redirect}},
		{[]config.Mode{config.Auto}, true, false, []config.Mode{config.Link}},
		{[]config.Mode{config.Redirect}, true, false, []config.Mode{config.Redirect}},
		{nil, false, true, nil},
	} {
		if got := effectiveModes(test.modes, test.inContainer, test.canEnter, log); !slices.Equal(got, test.want) {
			t.Errorf("%v, in a container %t, may enter %t: %v; want %v", test.modes, test.inContainer, test.canEnter, got, test.want)
		}
	}
}

func TestListenPortIsReadFromTheRules(t *testing.T) {
	if got := listenPortIn(netrules.State{}); got != firstListenPort {
		t.Errorf("without rules: %d; want the first that would be tried", got)
	}
	state, err := netrules.ParseState(netrules.IPv4, "nat", strings.Join([]string{
		"-P OUTPUT ACCEPT",
		"-N AMBASSADORD",
		"-A OUTPUT -m comment --comment ambassadord -j AMBASSADORD",
		"-A AMBASSADORD -d 127.0.0.0/8 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 61007",
		"",
	}, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := listenPortIn(state); got != 61007 {
		t.Errorf("with rules: %d; want theirs, 61007", got)
	}
}

func TestWaitForTheNextTable(t *testing.T) {
	var l latestTable
	if table, _ := l.wait(); table != nil || l.load() != nil {
		t.Fatal("a table before the first store")
	}
	_, changed := l.wait()
	l.store(nil)
	select {
	case <-changed:
	default:
		t.Error("who waited was not woken")
	}
	if _, changed = l.wait(); changed == nil {
		t.Fatal("no channel to wait for the next")
	}
	select {
	case <-changed:
		t.Error("woken without a store")
	default:
	}
}
