//go:build integration

package firewalld

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bus is a system bus of a test's own: DBUS_SYSTEM_BUS_ADDRESS leads to it.
type bus struct {
	t       *testing.T
	address string
	config  string
	cmd     *exec.Cmd
}

func newBus(t *testing.T) *bus {
	t.Helper()
	dir := t.TempDir()
	b := &bus{t: t, address: "unix:path=" + filepath.Join(dir, "bus"), config: filepath.Join(dir, "bus.conf")}
	text := fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>`, b.address)
	if err := os.WriteFile(b.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", b.address)
	t.Cleanup(b.stop)
	return b
}

// start returns when the bus answers.
func (b *bus) start() {
	b.t.Helper()
	b.cmd = exec.Command("dbus-daemon", "--config-file="+b.config, "--nofork", "--nopidfile", "--print-address")
	ready, err := b.cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		b.t.Fatalf("start a bus (Debian's package is dbus-daemon): %v", err)
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil { // it prints once it listens
		b.t.Fatalf("dbus-daemon: %v", err)
	}
}

func (b *bus) stop() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		b.cmd = nil
	}
}

// connect is a program on the bus. With ignore it answers no calls.
func (b *bus) connect(opts ...dbus.ConnOption) *dbus.Conn {
	b.t.Helper()
	conn, err := dbus.Connect(b.address, opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

func own(t *testing.T, conn *dbus.Conn, name string) {
	t.Helper()
	if reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("take the name %s: %v, %v", name, reply, err)
	}
}

func reload(t *testing.T, conn *dbus.Conn) {
	t.Helper()
	if err := conn.Emit(path, name+".Reloaded"); err != nil {
		t.Fatal(err)
	}
}

// watch runs Watch until the test ends, and returns what it tells.
func watch(t *testing.T) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		Watch(ctx, func() {
			select {
			case told <- struct{}{}:
			case <-ctx.Done():
			}
		})
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return told
}

func wantTold(t *testing.T, told <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(20 * time.Second):
		t.Fatalf("not told: %s", what)
	}
}

// wantQuiet demands that nothing is told until the bus has answered a call that was
// sent after everything else.
func wantQuiet(t *testing.T, told <-chan struct{}, conn *dbus.Conn, what string) {
	t.Helper()
	for range 10 {
		if err := conn.BusObject().Call(busName+".GetId", 0).Err; err != nil {
			t.Fatal(err)
		}
		select {
		case <-told:
			t.Fatalf("told: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestWatch(t *testing.T) {
	b := newBus(t)
	told := watch(t) // no bus yet
	b.start()
	wantTold(t, told, "a bus")

	stranger := b.connect()
	own(t, stranger, "org.example.Stranger")
	reload(t, stranger)
	wantQuiet(t, told, stranger, "a reload of somebody who is not firewalld")

	firewalld := b.connect()
	own(t, firewalld, name)
	wantTold(t, told, "firewalld is there")
	reload(t, firewalld)
	wantTold(t, told, "firewalld has reloaded")
	firewalld.Close()
	wantTold(t, told, "firewalld is gone")

	b.stop()
	b.start()
	wantTold(t, told, "another bus")
	firewalld = b.connect()
	own(t, firewalld, name)
	wantTold(t, told, "firewalld is there again")
}

// firewalld takes its name first and sets its rules next.
func TestWatchWaitsForTheStart(t *testing.T) {
	b := newBus(t)
	b.start()
	told := watch(t)
	wantTold(t, told, "a bus")
	started := make(chan struct{})
	firewalld := b.connect(dbus.WithIncomingInterceptor(func(m *dbus.Message) {
		if m.Type == dbus.TypeMethodCall {
			<-started
		}
	}))
	own(t, firewalld, name)
	wantQuiet(t, told, b.connect(), "firewalld is there, before it has set its rules")
	close(started)
	wantTold(t, told, "firewalld has started")
}

// A bus that accepts and says nothing holds nobody up.
func TestWatchEndsAtASilentBus(t *testing.T) {
	b := newBus(t)
	b.start()
	if err := b.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Watch(ctx, func() { t.Error("told") }) }()
	cancel()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it did not end")
	}
}
