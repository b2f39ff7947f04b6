//go:build integration

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/servertest"
)

// named answers each line with its name.
func named(t *testing.T, name string) (address string) {
	t.Helper()
	return serveIn(t, hostNamespace(t), "127.0.0.1:0", func(conn *net.TCPConn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			fmt.Fprintln(conn, name)
		}
	})
}

// whoAnswers sends a line on conn and reads who answers.
func whoAnswers(conn net.Conn) (string, error) {
	if _, err := fmt.Fprintln(conn, "who?"); err != nil {
		return "", err
	}
	name, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(name), err
}

// freeAddrs are different addresses of 127.0.0.1 to listen on.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	addrs := servertest.FreePorts(t, n)
	for i, port := range addrs {
		addrs[i] = net.JoinHostPort("127.0.0.1", port)
	}
	return addrs
}

// TestReload changes a daemon's file under live connections of a container that has no
// labels and of a listener: once well, once with a mistake, and once with a key that
// needs a restart.
func TestReload(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	free, nobody := freeAddrs(t, 2), servertest.Nobody(t)
	kept, gone := free[0], free[1]
	name := dockertest.Name(t)
	file := filepath.Join(t.TempDir(), "ambassadord.yml")
	write := func(text string, args ...any) {
		t.Helper()
		if err := os.WriteFile(file, fmt.Appendf(nil, text, args...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const first = `
log-level: debug
defaults: {wait: 1s}
listen:
  - {address: "%s", target: "%s"}
  - {address: "%s", target: "%s"}
clients:
  - container: %s
    ports: {6379: "%s", 6380: "%s"}
`
	write(first, kept, a, gone, a, name, a, nobody)
	d := start(t, "run", "--config", file, "--mode", "redirect")
	c := client{name: name, ns: containerNamespace(t, dockertest.Run(t, "--name", name, dockertest.Image(t)))}
	d.attached(name)

	inside, outside, leaving := dialIn(t, c.ns, "127.0.0.1:6379"), dialIn(t, hostNamespace(t), kept), dialIn(t, hostNamespace(t), gone)
	live := func(when string) {
		t.Helper()
		for where, conn := range map[string]net.Conn{"a container": inside, "a listener": outside, "a listener that goes": leaving} {
			if who, err := whoAnswers(conn); who != "a" || err != nil {
				t.Errorf("%s, the live connection of %s reaches %q, %v; want a", when, where, who, err)
			}
		}
	}
	reaches := func(want, address string, in client) error {
		conn, err := tryDialIn(in.ns, address)
		if err != nil {
			return err
		}
		defer conn.Close()
		who, err := whoAnswers(conn)
		if err == nil && who != want {
			err = fmt.Errorf("%q answered, not %s", who, want)
		}
		return err
	}
	// held says how long a connection was held that nobody answers.
	host := client{ns: hostNamespace(t)}
	held := func(earlier int) time.Duration {
		t.Helper()
		if err := reaches("nobody", "127.0.0.1:6380", c); err == nil {
			t.Error("somebody answered where nobody listens")
		}
		seen := 0
		l := d.connection(name, 6380, func(line) bool { seen++; return seen > earlier })
		lasted, err := time.ParseDuration(l.str("duration"))
		if err != nil {
			t.Errorf("the line of the connection: %v", err)
		}
		return lasted
	}
	reload := func(what string, match func(line) bool) line {
		t.Helper()
		d.mu.Lock()
		before := len(d.lines)
		d.mu.Unlock()
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		at := 0
		return d.wait(what, 20*time.Second, func(l line) bool { at++; return at > before && match(l) })
	}
	message := func(text string) func(line) bool {
		return func(l line) bool { return strings.Contains(l.str("msg"), text) }
	}
	live("at first")
	if lasted := held(0); lasted < time.Second {
		t.Errorf("a connection was held for %s; want 1 s, as the file says", lasted)
	}

	write(`
log-level: info
defaults: {wait: 0s}
listen:
  - {address: "%s", target: "%s"}
clients:
  - container: %s
    ports: {6379: "%s", 6380: "%s", 6381: "%s"}
`, kept, b, name, b, nobody, b)
	reload("the reload", message("read the configuration again"))
	live("after the reload")
	if err := reaches("b", kept, host); err != nil {
		t.Errorf("a new connection to the listener: %v", err)
	}
	if _, err := tryDialIn(host.ns, gone); err == nil {
		t.Error("the listener that is gone still accepts")
	}
	poll(t, 10*time.Second, "the container reaches b by the port that it had", func() error { return reaches("b", "127.0.0.1:6379", c) })
	poll(t, 10*time.Second, "and by the port that is new", func() error { return reaches("b", "127.0.0.1:6381", c) })
	if lasted := held(1); lasted > 900*time.Millisecond {
		t.Errorf("a connection was held for %s; want it refused at once, as the file says now", lasted)
	}

	write("listen:\n  - {address: \"%s\", target: \"%s\"}\ndefaults: {waite: 0s}\n", gone, a)
	l := reload("why not", message("cannot read the configuration again"))
	if !strings.Contains(l.str("error"), file+`:3:12: unknown key "waite"`) || l.str("hint") != "did you mean wait?" {
		t.Errorf("the log says %v; want the place and what was meant", l)
	}
	live("after a file with a mistake")
	for address, in := range map[string]client{kept: host, "127.0.0.1:6379": c, "127.0.0.1:6381": c} {
		if err := reaches("b", address, in); err != nil {
			t.Errorf("after a file with a mistake, %s: %v", address, err)
		}
	}

	write("consul-addr: 127.0.0.1:1\n"+first, kept, a, gone, a, name, a, nobody)
	l = reload("what needs a restart", message("until a restart"))
	if settings := fmt.Sprint(l["settings"]); settings != "[consul-addr]" {
		t.Errorf("until a restart stay %s; want consul-addr", settings)
	}
	live("after a key that needs a restart")
	for address, in := range map[string]client{kept: host, gone: host} {
		if err := reaches("a", address, in); err != nil {
			t.Errorf("after a key that needs a restart, %s: %v", address, err)
		}
	}
	poll(t, 10*time.Second, "the container has lost the port that is gone", func() error {
		if err := reaches("b", "127.0.0.1:6381", c); err == nil {
			return fmt.Errorf("it is served still")
		}
		return nil
	})
	live("at last")
}
