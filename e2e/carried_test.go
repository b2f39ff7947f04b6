//go:build integration

package e2e

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// carriedCase is a client with a connection that its daemon's keeper carries on, and a
// neighbour that has none.
type carriedCase struct {
	mode, address      string
	inside, host       int // chains that are needed: in the client's namespace, on the host
	carrying, nobodies client
	first              *daemon // killed
	live               *net.TCPConn
}

var carriedModes = []carriedCase{
	{mode: "redirect", address: "127.0.0.1:6379", inside: 1},
	{mode: "host", address: hostAddr4 + ":6379", host: 1},
}

// eachCarried runs test for each mode that has rules.
func eachCarried(t *testing.T, test func(*testing.T, *carriedCase)) {
	for _, c := range carriedModes {
		t.Run(c.mode, func(t *testing.T) {
			backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
			c.carrying, c.nobodies = declaring(t, map[int]string{6379: backend}), declaring(t, map[int]string{6379: backend})
			c.first, c.live = c.killed(t)
			test(t, &c)
		})
	}
}

// start starts a daemon that serves both clients.
func (c *carriedCase) start(t *testing.T) *daemon {
	t.Helper()
	d := start(t, "run", "--mode", c.mode, "--log-level", "debug")
	poll(t, 20*time.Second, "both are served", func() error {
		return errors.Join(c.served(c.carrying), c.served(c.nobodies))
	})
	return d
}

func (c *carriedCase) served(by client) error {
	conn, err := dialWithin(by.ns, c.address, impatient)
	if err != nil {
		return err
	}
	defer conn.Close()
	return pingPong(conn)
}

// killed starts a daemon and kills it when its keeper has a connection.
func (c *carriedCase) killed(t *testing.T) (*daemon, *net.TCPConn) {
	t.Helper()
	d := c.start(t)
	t.Cleanup(func() { // after a failure
		for _, pid := range append(ours(t, "keeper"), ours(t, "sweeper")...) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	live := dialIn(t, c.carrying.ns, c.address)
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	d.wait("the connection is kept", 20*time.Second, func(l line) bool { return l.str("msg") == "kept" && l.num("connections") == 1 })
	if err := d.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.wait("it is carried on", 20*time.Second, func(l line) bool { return strings.Contains(l.str("msg"), "carried on") })
	return d, live
}

// wantKept demands that the live connection goes on, through chains that nothing new
// comes by, and that nothing is left where nobody is carried.
func (c *carriedCase) wantKept(t *testing.T, live ...*net.TCPConn) {
	t.Helper()
	for _, conn := range append(live, c.live) {
		if err := pingPong(conn); err != nil {
			t.Errorf("the connection that is carried on: %v", err)
		}
	}
	if err := errors.Join(wantChains(c.carrying, c.inside, c.host), wantJumps(c.carrying, 0, 0)); err != nil {
		t.Errorf("the client whose connection is carried on: %v", err)
	}
	if err := wantChains(c.nobodies, 0, c.host); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	if err := c.served(c.carrying); err == nil {
		t.Error("a new connection is served, and nobody is there to serve it")
	}
}

// wantGone ends the connection, waits for the process that carried it on, and demands
// that nothing is left.
func (c *carriedCase) wantGone(t *testing.T) {
	t.Helper()
	c.live.Close()
	awaitKeeper(t, c.first)
	if err := errors.Join(wantChains(c.carrying, 0, 0), wantChains(c.nobodies, 0, 0)); err != nil {
		t.Errorf("after the last connection: %v", err)
	}
	if c.host > 0 && strings.Contains(addresses(t), hostAddr4) {
		t.Errorf("%s is still there after the last connection", hostAddr4)
	}
}

// awaitKeeper waits for all that a killed daemon has left running: they share its log.
func awaitKeeper(t *testing.T, killed *daemon) {
	t.Helper()
	select {
	case <-killed.done:
	case <-time.After(20 * time.Second):
		t.Fatal("processes of the killed daemon still run 20 s after their last connection")
	}
}

// saysWhoCarries is the line of a daemon that stops beside who carries n connections.
func saysWhoCarries(d *daemon, n int64) {
	d.t.Helper()
	d.wait("whose connections need the rules", time.Second, func(l line) bool {
		return strings.Contains(l.str("msg"), "stay, unhooked") && l.num("connections") == n && strings.Contains(l.str("by"), "process ")
	})
}

// TestCarriedBesideTheNextStop stops the daemon after the one that was killed.
func TestCarriedBesideTheNextStop(t *testing.T) {
	eachCarried(t, func(t *testing.T, c *carriedCase) {
		second := c.start(t)
		second.stop()
		c.wantKept(t)
		saysWhoCarries(second, 1)
		c.wantGone(t)
	})
}

// TestCarriedBesideRulesRemove removes the rules, as a unit's ExecStopPost does.
func TestCarriedBesideRulesRemove(t *testing.T) {
	eachCarried(t, func(t *testing.T, c *carriedCase) {
		for range 2 { // and again
			status, stdout, stderr := ambassadord(t, "rules", "remove")
			if status != 0 || !strings.Contains(stdout, "1 connection that process ") {
				t.Errorf("rules remove: exit %d, %q, %q; want 0, and who carries how many", status, stdout, stderr)
			}
			c.wantKept(t)
		}
		if status, stdout, stderr := ambassadord(t, "rules", "show"); status != 0 || !strings.Contains(stdout, "needed by 1 connection that process ") || strings.Contains(stdout, "orphan") {
			t.Errorf("rules show: exit %d, %q, %q; want who needs them, and no orphan", status, stdout, stderr)
		}
		if _, stdout, _ := ambassadord(t, "doctor"); !strings.Contains(stdout, "1 connection that process ") {
			t.Errorf("doctor says nothing of the connection that is carried on: %q", stdout)
		}
		c.wantGone(t)
		if entries, err := filepath.Glob("/run/ambassadord/carrier-*"); err != nil || len(entries) > 0 {
			t.Errorf("left are %v, %v", entries, err)
		}
	})
}

// TestCarriedOutOfSight removes the rules from a PID namespace in which the keeper is not to
// be seen, as in a container: whose sockets these are is not known, and they stay.
func TestCarriedOutOfSight(t *testing.T) {
	eachCarried(t, func(t *testing.T, c *carriedCase) {
		out, err := exec.Command("unshare", "--pid", "--fork", "--mount-proc", binary, "rules", "remove").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "1 connection that a process out of our sight carries") {
			t.Errorf("rules remove: %v, %s; want that the connection is left alone", err, out)
		}
		c.wantKept(t)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", keeperOf(t)))
		if err != nil || !strings.Contains(string(status), "\nSeccomp:\t2\n") {
			t.Errorf("the keeper moves bytes unconfined: %v, %s", err, status)
		}
		c.wantGone(t)
	})
}

// TestCarriedRulesRemovedByForce: whoever says so gets rid of all.
func TestCarriedRulesRemovedByForce(t *testing.T) {
	eachCarried(t, func(t *testing.T, c *carriedCase) {
		if status, stdout, stderr := ambassadord(t, "rules", "remove", "--force"); status != 0 {
			t.Errorf("rules remove --force: exit %d, %q, %q; want 0", status, stdout, stderr)
		}
		if err := errors.Join(wantChains(c.carrying, 0, 0), wantChains(c.nobodies, 0, 0)); err != nil {
			t.Error(err)
		}
		if err := syscall.Kill(keeperOf(t), syscall.SIGKILL); err != nil { // nobody tells it that its connection has ended
			t.Fatal(err)
		}
		awaitKeeper(t, c.first)
	})
}

// TestCarriedByTwo has two daemons killed: what the first one's keeper needs stays when the
// second one's has ended.
func TestCarriedByTwo(t *testing.T) {
	eachCarried(t, func(t *testing.T, c *carriedCase) {
		second, other := c.killed(t)
		third := c.start(t)
		third.stop()
		c.wantKept(t, other)
		saysWhoCarries(third, 2)
		other.Close()
		awaitKeeper(t, second)
		c.wantKept(t)
		c.wantGone(t)
	})
}

// TestCarryingKeeperIsKilled: what was left for it goes although it cannot say that it ends.
func TestCarryingKeeperIsKilled(t *testing.T) {
	eachCarried(t, func(t *testing.T, c *carriedCase) {
		c.start(t).stop()
		c.wantKept(t)
		if err := syscall.Kill(keeperOf(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.wantGone(t)
	})
}

// TestCarriedAcrossATakeover has the next daemon taken over from, and that one stopped.
func TestCarriedAcrossATakeover(t *testing.T) {
	eachCarried(t, func(t *testing.T, c *carriedCase) {
		second := c.start(t)
		third := start(t, "run", "--mode", c.mode, "--takeover")
		second.ended(20 * time.Second)
		third.stop()
		c.wantKept(t)
		saysWhoCarries(third, 1)
		c.wantGone(t)
	})
}

// TestCarriedWithoutRules: a connection that came by no rules needs none, and nobody waits to
// remove any.
func TestCarriedWithoutRules(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := carriedCase{mode: "listen", address: "127.0.0.1:6379"}
	c.carrying, c.nobodies = declaring(t, map[int]string{6379: backend}), declaring(t, map[int]string{6379: backend})
	c.first, c.live = c.killed(t)
	status, stdout, stderr := ambassadord(t, "rules", "remove")
	if status != 0 || strings.Contains(stdout, "left for") {
		t.Errorf("rules remove: exit %d, %q, %q; want that nobody needs any", status, stdout, stderr)
	}
	if found := ours(t, "sweeper"); len(found) > 0 {
		t.Errorf("sweepers run: %v", found)
	}
	if err := pingPong(c.live); err != nil {
		t.Error(err)
	}
	c.live.Close()
	awaitKeeper(t, c.first)
}

// TestClaimsOfNobody: what is in the folder and is no living process's claim keeps no rules, and is
// named.
func TestClaimsOfNobody(t *testing.T) {
	c := declaring(t, map[int]string{6379: serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)})
	d := start(t, "run", "--mode", "redirect")
	poll(t, 20*time.Second, "it is served", func() error { return connects(c) })
	if err := d.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitKeeper(t, d)
	id := c.ns.ID()
	text := fmt.Appendf(nil, `{"pid":1,"in":[{"dev":%d,"inode":%d,"ipv4":1}]}`, id.Dev, id.Inode)
	text = fmt.Appendf(nil, "%08x\n%s\n", crc32.ChecksumIEEE(text), text)
	const folder = "/run/ambassadord/carrier-1-1-"
	stale, foreign, fifo := folder+"stale.claim", folder+"foreign.claim", folder+"fifo.claim"
	t.Cleanup(func() {
		for _, path := range []string{stale, foreign, fifo} {
			_ = os.Remove(path)
		}
	})
	for _, path := range []string{stale, foreign} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	theirs, err := os.OpenFile(foreign, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := errors.Join(theirs.Chown(65534, 65534), syscall.Flock(int(theirs.Fd()), syscall.LOCK_EX), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := ambassadord(t, "rules", "remove")
	if status != 0 || !strings.Contains(stdout, "removed AMBASSADORD") || !strings.Contains(stderr, foreign) || !strings.Contains(stderr, fifo) {
		t.Errorf("rules remove: exit %d, %q, %q; want that they go, and that both files are named", status, stdout, stderr)
	}
	if err := wantChains(c, 0, 0); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a dead process has left: %v; want that it is gone", err)
	}
}

// keeperOf is the one process of our binary that is a keeper.
func keeperOf(t *testing.T) int {
	t.Helper()
	found := ours(t, "keeper")
	if len(found) != 1 {
		t.Fatalf("%d keepers run: %v", len(found), found)
	}
	return found[0]
}

// ours are the processes of our binary that run a command.
func ours(t *testing.T, command string) (found []int) {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(e)
		exe, exeErr := os.Readlink(filepath.Join(filepath.Dir(e), "exe"))
		args := strings.Split(string(text), "\x00")
		if err != nil || exeErr != nil || exe != binary || len(args) < 2 || args[1] != command {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, pid)
	}
	return found
}

// addresses are those of this host's lo.
func addresses(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ip", "addr", "show", "lo").CombinedOutput()
	if err != nil {
		t.Fatalf("ip addr: %v: %s", err, out)
	}
	return string(out)
}
