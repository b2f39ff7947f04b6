//go:build integration

package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// connPatience ends every read and write of a test's connection that hangs.
const connPatience = 60 * time.Second

// hostNamespace is the network namespace of this process, and so of daemons that
// are not started elsewhere.
func hostNamespace(t *testing.T) *netns.Namespace {
	t.Helper()
	return openNamespace(t, "/proc/self/ns/net")
}

// containerNamespace is the network namespace of a running container. What is
// dialled in it goes the way of the container's own connections.
func containerNamespace(t *testing.T, id string) *netns.Namespace {
	t.Helper()
	return openNamespace(t, "/proc/"+dockertest.Docker(t, "inspect", "-f", "{{.State.Pid}}", id)+"/ns/net")
}

func openNamespace(t *testing.T, path string) *netns.Namespace {
	t.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// dialIn opens a TCP connection from inside ns and closes it with the test.
func dialIn(t *testing.T, ns *netns.Namespace, address string) *net.TCPConn {
	t.Helper()
	conn, err := tryDialIn(ns, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// tryDialIn is dialIn without the test. The address holds an IP address.
func tryDialIn(ns *netns.Namespace, address string) (*net.TCPConn, error) {
	return dialWithin(ns, address, 5*time.Second)
}

// impatient is for who dials again and again until somebody answers: the kernel asks
// again only after 1 s, and then after 2 s.
const impatient = 200 * time.Millisecond

// dialWithin is tryDialIn for who does not wait that long.
func dialWithin(ns *netns.Namespace, address string, patience time.Duration) (*net.TCPConn, error) {
	var conn net.Conn
	err := ns.Do(func() (err error) {
		d := net.Dialer{Timeout: patience}
		d.SetMultipathTCP(false)
		conn, err = d.Dial("tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(connPatience)); err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// serveIn listens on address inside ns until the test ends, and calls handle for
// each connection, in a goroutine of its own. It returns where it listens.
func serveIn(t *testing.T, ns *netns.Namespace, address string, handle func(*net.TCPConn)) string {
	t.Helper()
	var listener net.Listener
	err := ns.Do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		listener, err = lc.Listen(context.Background(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		open    = map[net.Conn]bool{}
	)
	carry := func(conn net.Conn) {
		defer func() {
			mu.Lock()
			delete(open, conn)
			mu.Unlock()
			_ = conn.Close()
		}()
		handle(conn.(*net.TCPConn))
	}
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed below
			}
			_ = conn.SetDeadline(time.Now().Add(connPatience))
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			running.Go(func() { carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.SetDeadline(time.Unix(1, 0))
		}
		mu.Unlock()
		running.Wait()
	})
	return listener.Addr().String()
}

// startIn is startWith for a daemon inside ns that finds files of its own at the
// paths of the machine's: path → content.
func startIn(t *testing.T, ns *netns.Namespace, files map[string]string, env []string, args ...string) *daemon {
	t.Helper()
	return startStrictIn(t, ns, files, env, lenient(args)...)
}

// startStrictIn is startIn with nothing allowed that is not by default.
func startStrictIn(t *testing.T, ns *netns.Namespace, files map[string]string, env []string, args ...string) *daemon {
	t.Helper()
	// A mount namespace of its own, entered before the daemon takes this process
	// over: its process ID is the one that we started.
	const script = `while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"`
	command := []string{"--mount", "--propagation", "slave", "sh", "-c", script, "sh"}
	dir := t.TempDir()
	for path, content := range files {
		mine := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(mine, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		command = append(command, mine, path)
	}
	command = append(append(command, "--", binary), append(args, "--log-format", "json")...)
	var d *daemon
	err := ns.Do(func() error {
		d = launch(t, exec.Command("unshare", command...), env)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

// ended waits until the daemon has ended by itself.
func (d *daemon) ended(timeout time.Duration) {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(timeout):
		d.t.Fatalf("the daemon still runs %s later", timeout)
	}
	if d.err != nil {
		d.t.Errorf("the daemon ended with %v", d.err)
	}
}
