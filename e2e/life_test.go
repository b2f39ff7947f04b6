//go:build integration

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// echoing runs a container that sends back what it gets, on its port 7000.
func echoing(t *testing.T) (name string) {
	t.Helper()
	name = dockertest.Name(t)
	dockertest.Run(t, "--name", name, dockertest.Image(t), "nc", "-ll", "-p", "7000", "-e", "cat")
	return name
}

// served demands that a new connection of c is served, soon.
func served(t *testing.T, c client, when string) {
	t.Helper()
	poll(t, 10*time.Second, "a new connection "+when, func() error { return connects(c) })
}

// TestPause freezes first the client and then its backend under a connection.
func TestPause(t *testing.T) {
	backend := echoing(t)
	d := start(t, "run")
	c := declaring(t, map[int]string{6379: "docker://" + backend + ":7000"})
	d.attached(c.name)
	served(t, c, "at first")
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}

	dockertest.Docker(t, "pause", c.name)
	if err := pingPong(live); err != nil { // the test's end is not frozen
		t.Errorf("the live connection of a paused client: %v", err)
	}
	dockertest.Docker(t, "unpause", c.name)
	if err := pingPong(live); err != nil {
		t.Errorf("the live connection after the client's pause: %v", err)
	}
	served(t, c, "after the client's pause")

	// A frozen backend answers late, and gets nobody new.
	dockertest.Docker(t, "pause", backend)
	if _, err := io.WriteString(live, "late"); err != nil {
		t.Errorf("the live connection to a paused backend: %v", err)
	}
	poll(t, 10*time.Second, "a paused backend gets nobody new", func() error {
		// Until the engine has told of the pause, one goes to the frozen backend and waits.
		conn, err := tryDialIn(c.ns, "127.0.0.1:6379")
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if err = pingPong(conn); err == nil {
			return fmt.Errorf("a new connection was answered")
		}
		if n, ok := lastReason(d, c.name); !ok || n != "no_endpoints" {
			return fmt.Errorf("the reason is %q (%w)", n, err)
		}
		return nil
	})
	dockertest.Docker(t, "unpause", backend)
	late := make([]byte, len("late"))
	if _, err := io.ReadFull(live, late); err != nil || string(late) != "late" {
		t.Errorf("the live connection after the backend's pause: %q, %v", late, err)
	}
	served(t, c, "after the backend's pause")
}

// lastReason is why the last connection of a client that has ended failed.
func lastReason(d *daemon, client string) (reason string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		if l.str("msg") == "connection" && l.str("client") == client {
			reason, ok = l.str("reason"), true
		}
	}
	return reason, ok
}

// TestRename gives client and backend new names under a connection: the log names
// the one, a declaration finds the other.
func TestRename(t *testing.T) {
	backend := echoing(t)
	renamed := dockertest.Name(t)
	d := start(t, "run")
	c := declaring(t, map[int]string{6379: "docker://" + backend + ":7000", 6380: "docker://" + renamed + ":7000"})
	d.attached(c.name)
	served(t, c, "at first")
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	if _, err := echoed(c.ns, loopback(6380)); err == nil {
		t.Error("a name is served that no container has")
	}

	dockertest.Docker(t, "rename", backend, renamed)
	poll(t, 10*time.Second, "the backend by its new name", func() error { _, err := echoed(c.ns, loopback(6380)); return err })
	if l := d.connection(c.name, 6380, func(l line) bool { return l.str("reason") == "" }); l.str("endpoint_name") != renamed {
		t.Errorf("log line %v; want the endpoint's new name %s", l, renamed)
	}
	poll(t, 10*time.Second, "nobody by the old name", func() error {
		if connects(c) == nil {
			return fmt.Errorf("it is still served")
		}
		return nil
	})

	to := dockertest.Name(t)
	dockertest.Docker(t, "rename", c.name, to)
	poll(t, 10*time.Second, "a log line with the client's new name", func() error {
		if _, err := echoed(c.ns, loopback(6380)); err != nil {
			t.Errorf("a new connection after the client's renaming: %v", err)
		}
		if d.logged(to, 6380) == 0 {
			return fmt.Errorf("no line names %s", to)
		}
		return nil
	})
	if err := pingPong(live); err != nil {
		t.Errorf("the live connection after both were renamed: %v", err)
	}
}

// TestRestartUnderConnection restarts a client, and then a backend, that have a
// connection open: it ends at both sides, and new ones are served.
func TestRestartUnderConnection(t *testing.T) {
	accepted, gone := make(chan struct{}, 1), make(chan error, 1)
	held := serveIn(t, hostNamespace(t), "127.0.0.1:0", func(conn *net.TCPConn) {
		accepted <- struct{}{}
		_, err := io.Copy(io.Discard, conn)
		gone <- err
	})
	backend := echoing(t)
	d := start(t, "run")
	c := declaring(t, map[int]string{6379: "docker://" + backend + ":7000", 6380: held})
	d.attached(c.name)

	dockertest.Docker(t, "exec", "-d", c.name, "sh", "-c", "sleep 1000 | nc 127.0.0.1 6380")
	await := func(what string, event <-chan struct{}) {
		t.Helper()
		select {
		case <-event:
		case <-time.After(20 * time.Second):
			t.Fatalf("not within 20 s: %s", what)
		}
	}
	await("the connection from inside", accepted)
	dockertest.Docker(t, "restart", "-t", "0", c.name)
	select {
	case <-gone: // by an end or a reset
	case <-time.After(20 * time.Second):
		t.Error("the backend still holds the connection of a client that was restarted")
	}
	d.connection(c.name, 6380, nil)
	c.ns = containerNamespace(t, c.name)
	served(t, c, "after the client's restart")

	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	dockertest.Docker(t, "restart", "-t", "0", backend)
	if n, err := live.Read(make([]byte, 1)); err == nil {
		t.Errorf("the connection to a backend that was restarted: %d bytes and no end", n)
	} else if timeout, is := err.(net.Error); is && timeout.Timeout() { //nolint:errorlint // as Read returns it
		t.Error("the connection to a backend that was restarted hangs")
	}
	served(t, c, "after the backend's restart")
}

// TestHostNetworkConnect moves a client of mode host from network to network under a
// connection; the guard has to follow its addresses.
func TestHostNetworkConnect(t *testing.T) {
	network := dockertest.Network(t) // made first, so that it is removed last
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	startHost(t)
	c := declaring(t, map[int]string{6379: backend})
	serves := func() error {
		conn, err := tryDialIn(c.ns, hostAddr4+":6379")
		if err != nil {
			return err
		}
		defer conn.Close()
		return pingPong(conn)
	}
	poll(t, 10*time.Second, "a new connection", serves)
	live := dialIn(t, c.ns, hostAddr4+":6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	was := strings.SplitN(live.LocalAddr().String(), ":", 2)[0]

	dockertest.Docker(t, "network", "connect", network, c.name)
	if err := pingPong(live); err != nil {
		t.Errorf("the live connection after network connect: %v", err)
	}
	poll(t, 10*time.Second, "a new connection after network connect", serves)
	dockertest.Docker(t, "network", "disconnect", network, c.name)
	if err := pingPong(live); err != nil {
		t.Errorf("the live connection after network disconnect: %v", err)
	}

	dockertest.Docker(t, "network", "connect", network, c.name)
	dockertest.Docker(t, "network", "disconnect", "bridge", c.name)
	poll(t, 10*time.Second, "a new connection by the other network", serves)
	moved := dialIn(t, c.ns, hostAddr4+":6379")
	if err := pingPong(moved); err != nil {
		t.Errorf("a connection by the other network: %v", err)
	}
	if now := strings.SplitN(moved.LocalAddr().String(), ":", 2)[0]; now == was {
		t.Errorf("the client still has the address %s, so this test shows nothing", now)
	}
}
