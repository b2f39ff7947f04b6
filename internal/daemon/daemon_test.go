package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestMain(m *testing.M) {
	if os.Getenv(asPeer) != "" {
		if err := bePeer(); err != nil {
			fmt.Fprintln(os.Stdout, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

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
