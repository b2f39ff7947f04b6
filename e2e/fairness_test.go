//go:build integration

package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// startLimited starts the daemon as it is shipped, with so many descriptors at most, and waits
// until it serves.
func startLimited(t *testing.T, descriptors int, args ...string) *daemon {
	t.Helper()
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	words := append([]string{fmt.Sprintf("--nofile=%d", descriptors), path}, lenient(append([]string{"run", "--log-format", "json"}, args...))...)
	d := launch(t, exec.Command("prlimit", words...), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

// TestOneClientDeniesNobody: while one container tries to hold 20,000 connections, far more
// than the daemon may have, none of the others' fails, with defaults.
func TestOneClientDeniesNobody(t *testing.T) {
	const (
		clients     = 25
		rate        = 20 // connections a second of each
		lasting     = 5 * time.Second
		attempts    = 20_000
		descriptors = 8192 // good for fewer than 4,000 connections
	)
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	greedy := labelled(t, "connect.6379="+backend, "connect.6379.client-limit=0", "connect.6379.queue=65535", "connect.6379.wait=5m")
	others := make([]client, clients)
	for i := range others {
		others[i] = labelled(t, "connect.6379="+backend)
	}
	d := startLimited(t, descriptors)
	attachedTo(d, append([]client{greedy}, others...))
	honest := besideHonest(t, d)

	ctx := t.Context()
	stopped := make(chan struct{})
	var running sync.WaitGroup
	stop := sync.OnceFunc(func() { close(stopped); running.Wait() })
	defer stop() // the descriptors are those of all tests
	var tried atomic.Int64
	for range 20 {
		running.Go(func() {
			for tried.Add(1) <= attempts && ctx.Err() == nil {
				select {
				case <-stopped:
					return
				default:
				}
				conn, err := tryDialIn(greedy.ns, "127.0.0.1:6379")
				if err != nil {
					continue
				}
				running.Go(func() { // holds it until the daemon does not; a descriptor kept longer is this test's
					defer conn.Close()
					defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
					ended := make(chan struct{})
					go func() { defer close(ended); _, _ = conn.Read(make([]byte, 1)) }()
					select {
					case <-ended:
					case <-stopped:
					}
				})
			}
		})
	}
	// Any client: a daemon that does not share turns away others, which is seen below.
	d.wait("that there is not room for all", 3*time.Minute, func(l line) bool {
		return l.str("msg") == "connection" && l.str("reason") == "over_limit"
	})
	var failures, served atomic.Int64
	var asking sync.WaitGroup
	for _, c := range others {
		asking.Go(func() {
			ticker := time.NewTicker(time.Second / rate)
			defer ticker.Stop()
			for end := time.Now().Add(lasting); time.Now().Before(end); <-ticker.C {
				asking.Go(func() {
					if _, err := echoed(c.ns, "127.0.0.1:6379"); err != nil {
						failures.Add(1)
						t.Errorf("%s: %v", c.name, err)
						return
					}
					served.Add(1)
				})
			}
		})
	}
	asking.Wait()
	honest.want()
	stop()
	t.Logf("the greedy one has tried %d times, %d of the others' were served, %d failed", min(tried.Load(), attempts), served.Load(), failures.Load())
	d.mu.Lock()
	defer d.mu.Unlock()
	if strings.Contains(d.raw.String(), "cannot accept") {
		t.Error("the daemon had no descriptors left")
	}
}

// TestIdleConnectionsMakeRoom: one container holds idle connections, all that it can get.
// Where the operator allows it another gets more than is kept for it, since as many idle
// ones of the first are reset; the busy one of the first stays, and so do the idle ones of
// a third, which has few.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	const places, wanted, idle = 48, 16, time.Second // 6 places are kept for who has few
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	target := []string{"connect.6379=" + backend, "connect.6379.wait=20s"}
	greedy, modest, honest := labelled(t, target...), labelled(t, target...), labelled(t, target...)
	d := start(t, "run", "--max-connections", strconv.Itoa(places), "--reclaim-idle", idle.String())
	attachedTo(d, []client{greedy, modest, honest})
	holds := func(c client) *net.TCPConn {
		conn := dialIn(t, c.ns, "127.0.0.1:6379")
		if err := pingPong(conn); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		return conn
	}
	few := []*net.TCPConn{holds(modest), holds(modest), holds(modest)}
	busy := holds(greedy)
	for range places - 6 - len(few) - 1 {
		holds(greedy)
	}
	stop := make(chan struct{})
	var talking sync.WaitGroup
	quiet := sync.OnceFunc(func() { close(stop); talking.Wait() })
	defer quiet()
	talking.Go(func() {
		ticker := time.NewTicker(idle / 10)
		defer ticker.Stop()
		for {
			if err := pingPong(busy); err != nil {
				t.Errorf("the busy one of %s: %v", greedy.name, err)
				return
			}
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
		}
	})
	for range wanted {
		holds(honest)
	}
	quiet()
	for _, conn := range few {
		if err := pingPong(conn); err != nil {
			t.Errorf("%s, which has few: %v", modest.name, err)
		}
	}
	d.connection(greedy.name, 6379, func(l line) bool {
		return l.str("reason") == "over_limit" && strings.Contains(l.str("error"), greedy.name+" had ") &&
			strings.Contains(l.str("error"), "no byte had moved") && strings.Contains(l.str("hint"), "--reclaim-idle")
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	gone := 0
	for _, l := range d.lines {
		if l.str("msg") == "connection" {
			gone++
		}
	}
	if gone > wanted {
		t.Errorf("%d connections have ended for %d", gone, wanted)
	}
}

// TestOperatorsLimits: what a container asks for beyond them it does not get, and the log
// says so.
func TestOperatorsLimits(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := labelled(t, "connect.6379="+backend, "connect.6379.client-limit=0", "connect.6379.wait=100ms", "connect.6379.mark=7")
	silent := labelled(t, "connect.6379="+backend, "connect.6379.wait=100ms")
	d := start(t, "run", "--limit", "client-limit=1")
	attachedTo(d, []client{c, silent})
	for _, c := range []client{c, silent} {
		if err := pingPong(dialIn(t, c.ns, "127.0.0.1:6379")); err != nil {
			t.Fatal(err)
		}
		if _, err := refused(c.ns, "127.0.0.1:6379"); err != nil {
			t.Errorf("%s: the second: %v; want it to be refused", c.name, err)
		}
	}
	for _, what := range []string{"0 (no limit) is more than 1, to which --limit client-limit limits client-limit; 1 is used", "mark cannot be set by a container"} {
		d.wait(what, 5*time.Second, func(l line) bool { return l.str("client") == c.name && strings.Contains(l.str("error"), what) })
	}
}

// TestATenantEjectsNothing: neither by the options of ejection, nor by a dial of its own
// that can only fail, nor by what it sends.
func TestATenantEjectsNothing(t *testing.T) {
	gateway := bridgeAddress(t) + ":0"
	for _, args := range [][]string{{}, {"--limit", "source-address=allow"}} {
		t.Run(strings.Join(append([]string{"run"}, args...), " "), func(t *testing.T) {
			spare := serveIn(t, hostNamespace(t), gateway, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("spare")) })
			type attack struct {
				name          string
				tenant, other client
				word          string // that the tenant says
			}
			var attacks []attack
			var all []client
			for name, labels := range map[string][]string{
				"by options and a source address": {"eject-after=1", "eject-for=24h", "eject-for-max=24h", "source-address=127.0.0.1"}, // EINVAL
				"by a short attempt":              {"eject-after=1", "attempt-timeout=1ms", "timeout=1ms"},
				"by what it sends":                {"eject-after=1", "eject-for=24h", "eject-for-max=24h"},
			} {
				backend := serveIn(t, hostNamespace(t), gateway, func(conn *net.TCPConn) {
					b := make([]byte, 5)
					if n, _ := conn.Read(b); string(b[:n]) == "break" {
						_ = conn.SetLinger(0)
						return
					}
					_, _ = conn.Write([]byte("well"))
				})
				own := []string{"connect.6379=" + backend} // alone: it says of this one that it fails
				for _, l := range labels {
					own = append(own, "connect.6379."+l)
				}
				a := attack{name, labelled(t, own...), labelled(t, "connect.6379="+backend+","+spare, "connect.6379.policy=first"), "hello"}
				if name == "by what it sends" {
					a.word = "break"
				}
				attacks, all = append(attacks, a), append(all, a.tenant, a.other)
			}
			d := start(t, append([]string{"run"}, args...)...)
			attachedTo(d, all)
			honest := besideHonest(t, d)
			ask := func(c client, word string) string {
				conn, err := tryDialIn(c.ns, "127.0.0.1:6379")
				if err != nil {
					return err.Error()
				}
				defer conn.Close()
				if _, err := conn.Write([]byte(word)); err != nil {
					return err.Error()
				}
				b := make([]byte, 5)
				n, err := conn.Read(b)
				if err != nil {
					return err.Error()
				}
				return string(b[:n])
			}
			for _, a := range attacks {
				for range 10 {
					ask(a.tenant, a.word)
				}
				if got := ask(a.other, "hello"); got != "well" {
					t.Errorf("%s: another container is served by %q; want the first endpoint, which is well", a.name, got)
				}
			}
			honest.want()
		})
	}
}
