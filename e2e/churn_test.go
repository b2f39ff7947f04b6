//go:build integration

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// churn starts and ends containers, in a few lanes at once. Each lane gives all
// its containers one name, and each container another backend than the one
// before it, so that whatever is reused, a name, an address, a process ID, a
// namespace's number, belongs to another target every time.
type churn struct {
	t        *testing.T
	port     int                     // what clients dial
	address  string                  // where, host:port
	options  func(lane int) []string // of docker run, beside the declaration
	declare  func(target string) []string
	lanes    int
	common   []string // of docker run, for every container
	backends []*backend

	mu       sync.Mutex
	declared map[string]*backend // by a container's token
	byID     map[string]*backend // by a container's short ID
	finished map[string]bool     // short IDs of containers that were left to finish
	answered map[string]chan struct{}
	foreign  []string
}

// answers is how many connections a container that is left to finish makes.
const answers = 3

// backend is a server that answers its name to those who declared it.
type backend struct {
	name     string
	listener net.Listener
}

func (b *backend) target() string { return b.listener.Addr().String() }

// listen starts the backends on host.
func (c *churn) listen(host string, count int) {
	c.t.Helper()
	c.declared, c.answered = map[string]*backend{}, map[string]chan struct{}{}
	var serving sync.WaitGroup
	for i := range count {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			c.t.Fatal(err)
		}
		b := &backend{name: fmt.Sprintf("backend-%d", i), listener: listener}
		c.backends = append(c.backends, b)
		serving.Go(func() { c.serve(b) })
		c.t.Cleanup(func() { listener.Close() })
	}
	c.t.Cleanup(func() {
		for _, b := range c.backends {
			b.listener.Close()
		}
		serving.Wait()
	})
}

func (c *churn) serve(b *backend) {
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		connections.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			told, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				return // the client was killed before it said who it is
			}
			c.receive(b, strings.Fields(told))
			fmt.Fprintln(conn, b.name)
		})
	}
}

// expect says that whoever tells token declared b. The channel is closed when
// they have reached it.
func (c *churn) expect(token string, b *backend) (reached <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.declared[token] = b
	wait := make(chan struct{})
	c.answered[token] = wait
	return wait
}

// receive checks that whoever reached b declared it.
func (c *churn) receive(b *backend, told []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(told) != 2 || c.declared[told[1]] != b {
		c.foreign = append(c.foreign, fmt.Sprintf("%s was reached by %q", b.name, told))
		return
	}
	if wait := c.answered[told[1]]; wait != nil {
		close(wait)
		delete(c.answered, told[1])
	}
}

// run starts count containers. Every other one is killed: at once, or after its
// first answer.
func (c *churn) run(count int) {
	c.t.Helper()
	c.byID, c.finished = map[string]*backend{}, map[string]bool{}
	c.common = []string{clientOption(c.t), dockertest.Image(c.t), "/client"}
	prefix := dockertest.Name(c.t)
	var next atomic.Int64
	var lanes sync.WaitGroup
	for lane := range c.lanes {
		lanes.Go(func() {
			for turn := lane; ; turn++ {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				name := fmt.Sprintf("%s-%d", prefix, lane)
				c.one(i, name, c.backends[turn%len(c.backends)], c.options(lane))
			}
		})
	}
	lanes.Wait()
	c.checkForeign()
}

// checkForeign demands that nobody reached what they did not declare.
func (c *churn) checkForeign() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.foreign {
		c.t.Errorf("foreign connection: %s", f)
	}
}

// one runs the container number i from its start to its end.
func (c *churn) one(i int, name string, b *backend, options []string) {
	token := fmt.Sprintf("token-%d", i)
	reached := c.expect(token, b)

	args := append([]string{"--name", name}, c.declare(b.target())...)
	args = append(append(args, options...), c.common...)
	args = append(args, "-token", token, "-want", b.name)
	if i%2 == 0 {
		c.finish(append(append(args, "-n", fmt.Sprint(answers)), c.address), b)
		return
	}
	c.kill(append(append(args, "-n", "0"), c.address), name, b, reached, i%4 == 1)
}

// finish lets a container end by itself and demands every answer.
func (c *churn) finish(args []string, b *backend) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("docker", append([]string{"run", "--rm"}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	lines := strings.Fields(stdout.String()) // the ID, and the answers
	if err != nil || len(lines) != 1+answers {
		c.t.Errorf("docker %s: %v: %q %q; want %d answers", strings.Join(cmd.Args[1:], " "), err, stdout.String(), stderr.String(), answers)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID[lines[0]] = b
	c.finished[lines[0]] = true
}

// kill ends a container at any time, or once it was answered.
func (c *churn) kill(args []string, name string, b *backend, reached <-chan struct{}, answeredFirst bool) {
	out, err := exec.Command("docker", append([]string{"run", "-d"}, args...)...).Output()
	defer func() {
		if out, err := exec.Command("docker", "rm", "-f", name).CombinedOutput(); err != nil {
			c.t.Errorf("docker rm -f %s: %v: %s", name, err, out)
		}
	}()
	if err != nil {
		c.t.Errorf("docker run -d %s: %v", strings.Join(args, " "), err)
		return
	}
	id := strings.TrimSpace(string(out))[:12]
	c.mu.Lock()
	c.byID[id] = b
	c.mu.Unlock()
	if answeredFirst {
		select {
		case <-reached:
		case <-time.After(20 * time.Second):
			c.t.Errorf("container %s (%s) was not answered by %s within 20 s", name, id, b.name)
		}
	}
}

// check demands that the log names the right client and target for every
// connection that was carried, and all those of the finished containers.
func (c *churn) check(d *daemon) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.finished {
		served := 0
		d.wait(fmt.Sprintf("%d served connections of %s", answers, id), 20*time.Second, func(l line) bool {
			if l.str("msg") == "connection" && l.str("id") == id && l.str("reason") == "" {
				served++
			}
			return served == answers
		})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		if l.str("msg") != "connection" || l.str("endpoint") == "" {
			continue
		}
		b := c.byID[l.str("id")]
		if b == nil || l.str("target") != b.target() || l.str("endpoint") != b.target() || l.num("port") != int64(c.port) {
			c.t.Errorf("log line %v; want a container of this test with its own target", l)
		}
	}
}

// held counts what a process holds of other network namespaces than its own: handles on
// them, and sockets inside, which keep them alive just as much.
func held(t *testing.T, pid int) (namespaces, sockets int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var own unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &own); err != nil {
		t.Fatal(err)
	}
	inside := socketsInside(t, pid)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		link, err := os.Readlink(path)
		if err != nil {
			continue // closed since
		}
		if strings.HasPrefix(link, "socket:[") {
			if !inside[link] {
				sockets++
			}
			continue
		}
		// A handle has the name of the engine's mount or "net:[NUMBER]"; its file system
		// tells it surely. What is no file has none: a pipe, an epoll instance.
		var fs unix.Statfs_t
		var file unix.Stat_t
		if unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC && unix.Stat(path, &file) == nil && file.Ino != own.Ino {
			namespaces++
		}
	}
	return namespaces, sockets
}

// socketsInside are the sockets of a process's own network namespace, as links of proc
// name them.
func socketsInside(t *testing.T, pid int) map[string]bool {
	t.Helper()
	inside := map[string]bool{}
	for table, column := range map[string]int{ // of the inode
		"unix": 6, "tcp": 9, "tcp6": 9, "udp": 9, "udp6": 9, "raw": 9, "raw6": 9, "packet": 8, "netlink": 9,
	} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if fields := strings.Fields(line); len(fields) > column {
				inside["socket:["+fields[column]+"]"] = true
			}
		}
	}
	return inside
}

// wantNothingHeld demands that the daemon has let go of every container's namespace, but
// for the connections that it still carries.
func wantNothingHeld(t *testing.T, pid, carried int) {
	t.Helper()
	poll(t, 20*time.Second, "the daemon lets go of containers", func() error {
		if namespaces, sockets := held(t, pid); namespaces > 0 || sockets != carried {
			return fmt.Errorf("it holds %d namespaces and %d sockets in them, and carries %d connections", namespaces, sockets, carried)
		}
		return nil
	})
}

// wantNoGoroutines ends the daemon with SIGQUIT, at which Go prints every
// goroutine, and demands that none works for a container any more.
func wantNoGoroutines(t *testing.T, d *daemon) {
	t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	dump := d.raw.String()
	if !strings.Contains(dump, "internal/daemon.(*follower).run") {
		t.Fatal("SIGQUIT printed no goroutine of the daemon")
	}
	for _, work := range []string{"attach.(*attachment).run", "attach.runEarly", "proxy.(*Server).carry", "proxy.(*Server).serve"} {
		if n := strings.Count(dump, work+"("); n > 0 {
			t.Errorf("%d goroutines are still in %s, want none: no container is left", n, work)
		}
	}
}

func TestChurn(t *testing.T) {
	c := &churn{
		t: t, port: 7000, address: "localhost:7000", lanes: 8,
		options: func(int) []string { return nil },
		declare: func(target string) []string { return []string{"-l", "connect.7000=" + target} },
	}
	c.listen("127.0.0.1", 8)
	d := start(t, "run", "--mode", "redirect")
	pid := d.cmd.Process.Pid

	c.run(times(80, 200))
	c.check(d)
	wantNothingHeld(t, pid, 0)
	wantNoGoroutines(t, d)
}

// In mode link a client is known by its address, and a small network gives the
// same few to everybody.
func TestLinkChurn(t *testing.T) {
	network := dockertest.Network(t, "--subnet", "203.0.113.0/28")
	d := containerDaemon(t, "--network", network, "--network-alias", "backends", "--cap-add", "NET_ADMIN", engineSocket, image(t), "--omnimode")
	pid := d.pid()
	c := &churn{
		t: t, port: 7000, address: "backends:7000", lanes: 4,
		// One address for each lane: the next container has it at once.
		options: func(lane int) []string {
			return []string{"--network", network, "--ip", fmt.Sprintf("203.0.113.%d", 10+lane)}
		},
		declare: func(target string) []string { return []string{"-e", "BACKEND_7000=" + target} },
	}
	c.listen(dockerHost(t), 8)
	c.run(times(32, 60))
	c.check(d.daemon)
	wantNothingHeld(t, pid, 0)
}
