//go:build integration

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// mostOfALoop is how many connections one may become before it is seen to be a loop.
const mostOfALoop = 12

// endedSince counts the connections that have ended since the line number from, without
// those of the honest.
func (d *daemon) endedSince(from int, honest *patient) (all, loops int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines[from:] {
		if l.str("msg") == "connection" && !honest.made(l) {
			all++
			if l.str("reason") == "loop" {
				loops++
			}
		}
	}
	return all, loops
}

// soFar is how many lines the daemon has logged.
func (d *daemon) soFar() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lines)
}

// TestListenerThatLeadsBack: what the operator has mistaken is said, once for each
// connection that a client makes, and other listeners go on.
func TestListenerThatLeadsBack(t *testing.T) {
	good := named(t, "good")
	free := freeAddrs(t, 6)
	itself, one, other, beside, fine, row := free[0], free[1], free[2], free[3], free[4], free[5]
	_, port, _ := net.SplitHostPort(itself)
	file := filepath.Join(t.TempDir(), "ambassadord.yml")
	var text strings.Builder
	text.WriteString("listen:\n")
	for _, l := range [][2]string{
		{":" + port, itself}, {one, other}, {other, one}, {beside, beside + "," + good}, {fine, good}, {row, fine},
	} {
		fmt.Fprintf(&text, "  - {address: %q, target: %q}\n", l[0], l[1])
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, "run", "--config", file, "--mode", "redirect", "--default", "wait=0s")
	host, honest := hostNamespace(t), besideHonest(t, d)
	for _, address := range []string{itself, one} {
		from := d.soFar()
		if _, err := refused(host, address); err != nil {
			t.Error(err)
		}
		poll(t, 10*time.Second, "a line says that "+address+" is a loop", func() error {
			if all, loops := d.endedSince(from, honest); loops == 0 {
				return fmt.Errorf("%d connections, and none was a loop", all)
			}
			return nil
		})
		if all, _ := d.endedSince(from, honest); all > mostOfALoop {
			t.Errorf("%s: one connection became %d", address, all)
		}
	}
	for _, address := range []string{beside, fine, row} {
		for range 10 {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			if name, err := whoAnswers(conn); name != "good" || err != nil {
				t.Errorf("%s: %q, %v", address, name, err)
			}
			conn.Close()
		}
	}
	honest.want()
}

// TestContainerAtOurPort: the ports of our sockets in a container are not sacred. One may
// serve there before us, and one may dial us there.
func TestContainerAtOurPort(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	name := dockertest.Name(t)
	c := client{name: name, ns: containerNamespace(t, dockertest.Run(t, "--name", name, "-l", "connect.6379="+backend,
		dockertest.Image(t), "nc", "-ll", "-p", "61000", "-e", "cat"))}
	beside := declaring(t, map[int]string{6379: backend})
	poll(t, 10*time.Second, "the container serves", func() error { _, err := echoed(c.ns, loopback(61000)); return err })
	d := start(t, "run", "--mode", "redirect")
	d.attached(name)
	d.attached(beside.name)
	for _, address := range []string{loopback(6379), loopback(61000)} { // its declaration, and its own server
		if _, err := echoed(c.ns, address); err != nil {
			t.Error(err)
		}
	}
	for range 10 {
		if _, err := refused(beside.ns, loopback(61000)); err != nil {
			t.Error(err)
		}
		if _, err := echoed(beside.ns, loopback(6379)); err != nil {
			t.Error(err)
		}
	}
}

// TestFrozenTenant: a container that is frozen while it holds connections, and while more of
// its own wait, is in nobody's way.
func TestFrozenTenant(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	frozen, honest := declaring(t, map[int]string{6379: backend}), declaring(t, map[int]string{6379: backend})
	d := start(t, "run", "--mode", "redirect")
	d.attached(frozen.name)
	d.attached(honest.name)
	for range 200 {
		if err := pingPong(dialIn(t, frozen.ns, loopback(6379))); err != nil {
			t.Fatal(err)
		}
	}
	dockertest.Docker(t, "pause", frozen.name)
	for range 50 {
		if _, err := echoed(honest.ns, loopback(6379)); err != nil {
			t.Error(err)
		}
	}
	late := declaring(t, map[int]string{6379: backend})
	d.attached(late.name)
	if _, err := echoed(late.ns, loopback(6379)); err != nil {
		t.Error(err)
	}
	dockertest.Docker(t, "unpause", frozen.name)
	if _, err := echoed(frozen.ns, loopback(6379)); err != nil {
		t.Error(err)
	}
}

// TestRecreatedTenant: one name is created, started and removed over and over, with another
// port each time, beside a container whose name begins with that name.
func TestRecreatedTenant(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	name := dockertest.Name(t)
	honest := client{name: name + "-2", ns: containerNamespace(t, dockertest.Run(t, "--name", name+"-2", "-l", "connect.6379="+backend, dockertest.Image(t)))}
	d := start(t, "run", "--mode", "redirect")
	d.attached(honest.name)
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			run := exec.Command("docker", "run", "--rm", "--name", name, "-l", fmt.Sprintf("connect.%d=%s", 7000+n%100, backend), dockertest.Image(t), "true")
			if out, err := run.CombinedOutput(); err != nil {
				t.Errorf("docker run: %v: %s", err, out)
				return
			}
		}
	}()
	for range 5 {
		started := declaring(t, map[int]string{6379: backend})
		d.attached(started.name)
		for _, c := range []client{honest, started} {
			for range 10 {
				if _, err := echoed(c.ns, loopback(6379)); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		}
	}
	close(stop)
	t.Logf("recreated %d times", <-stopped)
}
