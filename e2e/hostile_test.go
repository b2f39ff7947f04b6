//go:build integration

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// buildHostile builds the program of e2e/internal/hostile, once.
var buildHostile = program("hostile")

// hostile starts a container that runs /hostile with args, and is given the least of the
// processors' time: what is measured is what the daemon spends on it. options are those
// of docker run.
func hostile(t *testing.T, options []string, args ...string) (c client, id string) {
	t.Helper()
	path, err := buildHostile()
	if err != nil {
		t.Fatal(err)
	}
	name := dockertest.Name(t)
	run := append([]string{"--name", name, "--cpu-shares", "2", "-v", path + ":/hostile:ro"}, options...)
	run = append(run, dockertest.Image(t))
	if len(args) > 0 {
		run = append(append(run, "/hostile"), args...)
	}
	id = dockertest.Run(t, run...)
	return client{name: name, ns: containerNamespace(t, id)}, id
}

// ready waits until the hostile program of that container is.
func ready(t *testing.T, id string) {
	t.Helper()
	poll(t, 30*time.Second, "the attack begins", func() error {
		if out := dockertest.Docker(t, "logs", id); !strings.Contains(out, "ready") {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
}

// label is an option of docker run.
func label(format string, args ...any) string { return "--label=" + fmt.Sprintf(format, args...) }

// sleepless calls do again and again until ctx ends.
func sleepless(ctx context.Context, do func()) {
	for ctx.Err() == nil {
		do()
	}
}

// waitFor is an attack that goes on by itself.
func waitFor(ctx context.Context) { <-ctx.Done() }

// tolerated are the attacks that others notice on a host of scripts/engine, and by how much:
// docs/security.md says so. A name server is one, in the moment in which 200 names of it are asked
// for: 0.1 to 0.17 s. On the machine's own engine, where make test runs it once more, it is not.
var tolerated = map[string]time.Duration{"name server": 300 * time.Millisecond}

// TestHostileTenants tries, one after the other, what a container can do, and demands
// that nobody else notices.
func TestHostileTenants(t *testing.T) {
	d := startPlain(t, "run")
	h := startHonest(t, d, honestClients)
	for _, attack := range []struct {
		name string
		// prepare makes what the attack needs and returns it.
		prepare func(*testing.T, *honest) func(context.Context)
	}{
		{"frozen", frozen},
		{"silent", silent},
		{"flood", flooding},
		{"resets", resets},
		{"recreated", recreated},
		{"restarted", restarted},
		{"squatted", squatted},
		{"our socket", ourSocket},
		{"leads back", leadsBack},
		{"flushes rules", flushes},
		{"changes addresses", readdressed},
		{"no loopback", noLoopback},
		{"odd labels", oddLabels},
		{"names", likeOthers},
		{"many ports", manyPorts},
		{"hostile checks", hostileChecks},
		{"every container", everyContainer},
		{"name server", nameServer},
	} {
		t.Run(attack.name, func(t *testing.T) {
			if os.Getenv("ENGINE") != "" {
				h.tolerated = tolerated[attack.name]
			}
			h.beside(t, attack.prepare)
		})
	}
	h.lettingGo()
}

// lettingGo demands that the daemon comes down to what the honest need.
func (h *honest) lettingGo() {
	h.t.Helper()
	poll(h.t, 30*time.Second, "the daemon lets go of the attackers", func() error {
		namespaces, _ := held(h.t, h.d.cmd.Process.Pid)
		// A handle, and what tells of changes, for each attached container.
		if namespaces > honestClients {
			return fmt.Errorf("it holds %d namespaces, and %d containers are left", namespaces, honestClients)
		}
		return nil
	})
}

// frozen: a container is paused while hundreds of its connections wait for an answer,
// and others have an answer waiting for it.
func frozen(t *testing.T, h *honest) func(context.Context) {
	hole := blackHole(t)
	c, id := hostile(t, []string{label("connect.6379=%s", h.target), label("connect.7000=%s", hole)}, "hold", "500", "127.0.0.1:7000")
	ready(t, id)
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) {
		dockertest.Docker(t, "pause", id)
		waitFor(ctx)
		dockertest.Docker(t, "unpause", id)
		if err := errors.Join(pingPong(live), connects(c)); err != nil {
			t.Errorf("after the freeze: %v", err)
		}
	}
}

// silent: thousands of connections on which nothing is said.
func silent(t *testing.T, h *honest) func(context.Context) {
	_, id := hostile(t, []string{"--ulimit", "nofile=20000:20000", label("connect.6379=%s", h.target)}, "hold", "3000", "127.0.0.1:6379")
	ready(t, id)
	return waitFor
}

// flooding: connections that write for ever and read nothing. The echo stops at what the
// kernel's buffers take, and the daemon must not hold more.
func flooding(t *testing.T, h *honest) func(context.Context) {
	before := h.resident()
	_, id := hostile(t, []string{label("connect.6379=%s", h.target)}, "flood", "200", "127.0.0.1:6379")
	ready(t, id)
	return func(ctx context.Context) {
		waitFor(ctx)
		if grown := h.resident() - before; grown > 64<<10 {
			t.Errorf("the daemon has grown by %d KiB for 200 connections of a client that reads nothing", grown)
		}
	}
}

// resets: connections are reset as soon as they are made.
func resets(t *testing.T, h *honest) func(context.Context) {
	_, id := hostile(t, []string{"--cpus", "0.2", label("connect.6379=%s", h.target)}, "reset", "50", "127.0.0.1:6379")
	ready(t, id)
	return waitFor
}

// recreated: a name is taken by one container after the other, each with other labels.
func recreated(t *testing.T, h *honest) func(context.Context) {
	name := dockertest.Name(t)
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", name).Run() })
	image, turn := dockertest.Image(t), 0
	return func(ctx context.Context) {
		sleepless(ctx, func() {
			turn++
			out, err := exec.Command("docker", "run", "-d", "--rm", "--network", "none", "--name", name,
				label("connect.%d=%s", 7000+turn, h.target), label("connect.6379.policy=nonsense-%d", turn), image).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if out, err := exec.Command("docker", "rm", "-f", name).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		t.Logf("%d containers", turn)
	}
}

// restarted: a container is restarted in a loop, so that process IDs and the numbers of
// namespaces come again, while it dials.
func restarted(t *testing.T, h *honest) func(context.Context) {
	_, id := hostile(t, []string{label("connect.6379=%s", h.target)}, "hold", "50", "127.0.0.1:6379")
	return func(ctx context.Context) {
		sleepless(ctx, func() { dockertest.Docker(t, "restart", "-t", "0", id) })
	}
}

// squatted: an app has every port that we listen on by choice, on each address, before us.
// It must not get what was meant for a target, nor keep its own container from being served.
func squatted(t *testing.T, h *honest) func(context.Context) {
	c, id := hostile(t, []string{label("connect.6379=%s", h.target)}, "squat", "61000", "61099")
	ready(t, id)
	h.d.attached(c.name)
	return func(ctx context.Context) {
		if err := connects(c); err != nil {
			t.Errorf("a connection to the declared port: %v", err)
		}
		waitFor(ctx)
	}
}

// ourSocket: an app dials the socket that we have in its namespace, by itself.
func ourSocket(t *testing.T, h *honest) func(context.Context) {
	c, _ := hostile(t, []string{label("connect.6379=%s", h.target)})
	h.d.attached(c.name)
	return func(ctx context.Context) {
		sleepless(ctx, func() {
			if _, err := refused(c.ns, loopback(61000)); err != nil {
				t.Fatal(err)
			}
		})
		if err := connects(c); err != nil {
			t.Error(err)
		}
	}
}

// leadsBack: a container with NET_ADMIN sends to our socket what the daemon dials for it.
func leadsBack(t *testing.T, h *honest) func(context.Context) {
	name := dockertest.Name(t)
	c, _ := hostile(t, []string{"--name", name, "--sysctl", "net.ipv4.conf.all.route_localnet=1", label("connect.7777=docker://%s:7777", name)})
	h.d.attached(name)
	err := c.ns.Do(func() error {
		out, err := exec.Command("iptables", "-w", "10", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "7777", "-j", "DNAT", "--to-destination", "127.0.0.1:61000").CombinedOutput()
		if err != nil {
			return fmt.Errorf("iptables: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) {
		from, dialled := h.d.soFar(), 0
		sleepless(ctx, func() {
			dialled++
			if conn, err := dialWithin(c.ns, loopback(7777), impatient); err == nil {
				_ = conn.SetDeadline(time.Now().Add(impatient))
				_ = pingPong(conn)
				conn.Close()
			}
		})
		all := h.d.ofClient(from, name)
		t.Logf("%d connections became %d", dialled, all)
		if all > dialled*mostOfALoop {
			t.Errorf("%d connections became %d", dialled, all)
		}
	}
}

// ofClient counts the connections of a container that the daemon has logged since the line
// number from, or has counted instead.
func (d *daemon) ofClient(from int, name string) (all int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines[from:] {
		switch {
		case l.str("client") != name:
		case l.str("msg") == "connection":
			all++
		case l.str("of") == "connection":
			all += int(l.num("lines"))
		}
	}
	return all
}

// inLoop runs a shell script in a namespace again and again, with little of the processor.
func inLoop(t *testing.T, c client, script string) func(context.Context) {
	return func(ctx context.Context) {
		turns := 0
		sleepless(ctx, func() {
			turns++
			err := c.ns.Do(func() error { return exec.Command("nice", "-n", "19", "sh", "-c", script).Run() })
			if err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", script, err)
			}
		})
		t.Logf("%d times", turns)
	}
}

// mostBusy is how much of one processor a container that changes its own network in a
// loop may have the daemon spend.
const mostBusy = 0.5

// bounded demands that of an attack, and that its container is served in the end.
func bounded(t *testing.T, h *honest, c client, attack func(context.Context)) func(context.Context) {
	return func(ctx context.Context) {
		busy, began := h.busy(), time.Now()
		attack(ctx)
		if spent, passed := h.busy()-busy, time.Since(began); spent.Seconds() > mostBusy*passed.Seconds() {
			t.Errorf("the daemon has spent %s of %s; want at most %.0f%%", spent, passed, 100*mostBusy)
		}
		poll(t, 10*time.Second, "a connection of the attacker's own, after it", func() error { return connects(c) })
	}
}

// flushes: a container with NET_ADMIN empties its nat table in a loop.
func flushes(t *testing.T, h *honest) func(context.Context) {
	c, _ := hostile(t, []string{label("connect.6379=%s", h.target)})
	h.d.attached(c.name)
	return bounded(t, h, c, inLoop(t, c, "iptables -w 10 -t nat -F; iptables -w 10 -t nat -X; :"))
}

// readdressed: one changes its addresses and links in a loop.
func readdressed(t *testing.T, h *honest) func(context.Context) {
	c, _ := hostile(t, []string{label("connect.6379=%s", h.target)})
	h.d.attached(c.name)
	return bounded(t, h, c, inLoop(t, c, `for i in 1 2 3 4 5 6 7 8; do
		ip addr add 10.99.0.$i/32 dev lo; ip addr del 10.99.0.$i/32 dev lo; ip link set lo mtu 1500$i; done`))
}

// noLoopback: one takes its loopback down and up again, and its address away.
func noLoopback(t *testing.T, h *honest) func(context.Context) {
	c, _ := hostile(t, []string{label("connect.6379=%s", h.target)})
	h.d.attached(c.name)
	return bounded(t, h, c, inLoop(t, c, `ip link set lo down; ip addr flush dev lo; ip link set lo up; ip addr add 127.0.0.1/8 dev lo; :`))
}

// oddLabels: declarations of every form that an engine takes.
func oddLabels(t *testing.T, h *honest) func(context.Context) {
	long := strings.Repeat("x", 60_000)
	labels := []string{
		label("connect.6379=%s", h.target),
		label("connect.7001=%s", long), label("connect.%s=a:1", long), label("connect.7002.%s=1", long), label("connect.7003=a:1\nlevel=ERROR msg=forged"),
		label("connect.7004=\x1b[2J\x1b]0;title\x07a:1"), label("connect.7005=\xff\xfe:1"), label("connect.\xff=a:1"), label("connect.7006=--help"),
		label("connect.7007=../../etc/passwd:1"), label("connect.7008=%s", strings.Repeat("a:1,", 10_000)), label("connect.7009=%s", strings.Repeat("a:1 | ", 9_000)),
		label("connect.0=a:1"), label("connect.65536=a:1"), label("connect.-1=a:1"), label("connect.=a:1"), label("connect.7010="),
		label("connect.7011=\u202eelpmaxe.com:1"), label("connect.7012.check-path=/\r\nHost: other"), label("connect.7012=%s", h.target),
		label("connect.7013=file:///proc/self/environ"), label("connect.7014=file:///dev/zero"), label("connect.7015=dns://x@[::1]:1/%%00"),
	}
	c, _ := hostile(t, labels)
	h.d.attached(c.name)
	return func(ctx context.Context) {
		pace := time.NewTicker(100 * time.Millisecond)
		defer pace.Stop()
		sleepless(ctx, func() {
			for port := 7001; port <= 7015; port++ {
				if conn, err := dialWithin(c.ns, loopback(port), impatient); err == nil {
					conn.Close()
				}
			}
			if err := connects(c); err != nil {
				t.Errorf("the port that is well declared: %v", err)
			}
			<-pace.C
		})
		h.wantCleanLog(t)
	}
}

// wantCleanLog demands that each line of the log is one of the daemon's own, and none is
// made by what a container has written.
func (h *honest) wantCleanLog(t *testing.T) {
	t.Helper()
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	lines := bufio.NewScanner(strings.NewReader(h.d.raw.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if text := lines.Text(); !strings.HasPrefix(text, "{") || strings.ContainsAny(text, "\x1b\x07\u009b\u202e") {
			t.Fatalf("a line of the log is %.200q", text)
		}
	}
}

// likeOthers: containers whose names begin as an honest one's, or are another's short ID.
func likeOthers(t *testing.T, h *honest) func(context.Context) {
	victim := h.clients[0]
	id := dockertest.Docker(t, "inspect", "-f", "{{.Id}}", victim.name)
	other := serveIn(t, hostNamespace(t), dockerHost(t)+":0", func(conn *net.TCPConn) { fmt.Fprintln(conn, "another") })
	for _, name := range []string{victim.name + "-", victim.name + ".1", victim.name[:len(victim.name)-1], id[:12], id, "ambassadord", "tls", "all"} {
		c, _ := hostile(t, []string{"--name", name, label("connect.6379=%s", other)})
		h.d.attached(name)
		conn := dialIn(t, c.ns, loopback(6379))
		if who, err := io.ReadAll(conn); string(who) != "another\n" {
			t.Errorf("container %s reached %q, %v", name, who, err)
		}
	}
	return waitFor
}

// manyPorts: containers that declare as many ports as they like.
func manyPorts(t *testing.T, h *honest) func(context.Context) {
	const containers, ports = 20, 200
	before := h.resident()
	return func(ctx context.Context) {
		var options []string
		for port := range ports {
			options = append(options, label("connect.%d=%s", 10_000+port, h.target))
		}
		var starting sync.WaitGroup
		slots := make(chan struct{}, 2)
		for range containers {
			starting.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				if ctx.Err() == nil {
					hostile(t, options)
				}
			})
		}
		starting.Wait()
		if grown := h.resident() - before; grown > 64<<10 {
			t.Errorf("the daemon has grown by %d KiB", grown)
		}
	}
}

// hostileChecks: health checks, by label, of an address that is somebody else's.
func hostileChecks(t *testing.T, h *honest) func(context.Context) {
	var options []string
	for port := 7000; port < 7200; port++ {
		options = append(options, label("connect.%d=%s", port, h.target), label("connect.%d.check=http", port),
			label("connect.%d.check-interval=100ms", port), label("connect.%d.check-path=/%d", port, port),
			label("connect.%d.check-fall=1", port), label("connect.%d.check-timeout=5m", port))
	}
	c, _ := hostile(t, options)
	h.d.attached(c.name)
	return bounded(t, h, h.clients[0], func(ctx context.Context) {
		for port := 7000; port < 7200; port++ {
			if conn, err := dialWithin(c.ns, loopback(port), impatient); err == nil {
				conn.Close()
			}
		}
		waitFor(ctx)
	})
}

// everyContainer: hundreds of targets that each match every container of the host, while
// containers come and go.
func everyContainer(t *testing.T, h *honest) func(context.Context) {
	var options []string
	for port := 7000; port < 7400; port++ {
		options = append(options, label("connect.%d=docker://?label=ambassadord.test=1&port=%d", port, port))
	}
	c, _ := hostile(t, options)
	h.d.attached(c.name)
	churn := recreated(t, h)
	return bounded(t, h, h.clients[0], churn)
}

// nameServer: a container's own name server answers at length, with junk, or never.
func nameServer(t *testing.T, h *honest) func(context.Context) {
	server := junkNames(t)
	before := h.resident()
	var options []string
	for port := 7000; port < 7200; port++ {
		options = append(options, label("connect.%d=dns://%s/name-%d.test:80", port, server, port))
	}
	c, _ := hostile(t, options)
	h.d.attached(c.name)
	return bounded(t, h, h.clients[0], func(ctx context.Context) {
		for port := 7000; port < 7200 && ctx.Err() == nil; port++ {
			if conn, err := dialWithin(c.ns, loopback(port), impatient); err == nil {
				conn.Close()
			}
		}
		waitFor(ctx)
		if grown := h.resident() - before; grown > 64<<10 {
			t.Errorf("the daemon has grown by %d KiB", grown)
		}
	})
}
