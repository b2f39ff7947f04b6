//go:build integration

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// soon bounds what must not wait for anybody. The shortest patience of the daemon
// that could be in its way is six times as long.
const soon = 500 * time.Millisecond

// blackHole is the address of a container that drops what is sent to it there.
func blackHole(t *testing.T) string {
	t.Helper()
	id := dockertest.Run(t, dockertest.Image(t))
	ns := containerNamespace(t, id)
	err := ns.Do(func() error {
		out, err := exec.CommandContext(t.Context(), "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP").CombinedOutput()
		if err != nil {
			return fmt.Errorf("iptables: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dockertest.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", id) + ":9"
}

// deafNames is the address of a DNS server that never answers; asked gets a token
// when it is asked, as long as somebody takes them.
func deafNames(t *testing.T) (address string, asked <-chan struct{}) {
	t.Helper()
	address = "127.0.0.77"
	packets, err := net.ListenPacket("udp", address+":53")
	if err != nil {
		t.Fatal(err)
	}
	questions := make(chan struct{}, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		for buffer := make([]byte, 4096); ; {
			if _, _, err := packets.ReadFrom(buffer); err != nil {
				return // closed below
			}
			select {
			case questions <- struct{}{}:
			default:
			}
		}
	})
	t.Cleanup(func() {
		_ = packets.Close()
		reading.Wait()
	})
	serveIn(t, hostNamespace(t), address+":53", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	return address, questions
}

// loopback is where a container dials a port that it declares.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// refused dials and demands that the connection, which was up at the time that it returns,
// is reset.
func refused(ns *netns.Namespace, address string) (up time.Time, err error) {
	conn, err := tryDialIn(ns, address)
	up = time.Now()
	if errors.Is(err, syscall.ECONNRESET) { // so soon that connect itself reports it
		return up, nil
	}
	if err != nil {
		return up, err
	}
	defer conn.Close()
	n, err := io.Copy(io.Discard, conn)
	if !errors.Is(err, syscall.ECONNRESET) {
		return up, fmt.Errorf("%s: %d bytes and then %w, want a reset", address, n, errOr(err, io.EOF))
	}
	return up, nil
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// echoed dials and demands that over the connection, which was up at the time that it
// returns, an echo comes back.
func echoed(ns *netns.Namespace, address string) (up time.Time, err error) {
	conn, err := tryDialIn(ns, address)
	up = time.Now()
	if err != nil {
		return up, err
	}
	defer conn.Close()
	if err := pingPong(conn); err != nil {
		return up, fmt.Errorf("%s: %w", address, err)
	}
	return up, nil
}

// atOnce has c dial a port that ends as end demands, echoed or refused, and returns the
// connection's log line. By that the daemon has accepted and finished it soon: what the
// test itself takes, to enter a namespace and to dial, is not the daemon's.
func (d *daemon) atOnce(c client, port int, end func(*netns.Namespace, string) (time.Time, error)) line {
	d.t.Helper()
	began := time.Now()
	up, err := end(c.ns, loopback(port))
	if err != nil {
		d.t.Errorf("%s, port %d: %v", c.name, port, err)
		return nil
	}
	l := d.connection(c.name, port, func(l line) bool { return l.accepted().After(began) })
	if waited := l.accepted().Sub(up); waited > soon || l.lasted() > soon {
		d.t.Errorf("%s, port %d: accepted after %s and ended %s later, want each within %s: %v", c.name, port, waited, l.lasted(), soon, l)
	}
	return l
}

// accepted is when the daemon accepted the connection of a log line.
func (l line) accepted() time.Time {
	ended, err := time.Parse(time.RFC3339Nano, l.str("time"))
	if err != nil {
		return time.Time{}
	}
	return ended.Add(-l.lasted())
}

// lasted is how long a log line's connection lasted from then on.
func (l line) lasted() time.Duration {
	lasted, err := time.ParseDuration(l.str("duration"))
	if err != nil {
		return time.Hour // which nobody takes for soon
	}
	return lasted
}

// logged counts the connections to port that have ended.
func (d *daemon) logged(client string, port int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, l := range d.lines {
		if l.str("msg") == "connection" && l.str("client") == client && l.num("port") == int64(port) {
			n++
		}
	}
	return n
}

// declaring starts a container with the labels connect.PORT=TARGET.
func declaring(t *testing.T, targets map[int]string) client {
	t.Helper()
	name := dockertest.Name(t)
	args := []string{"--name", name}
	for port, target := range targets {
		args = append(args, "-l", fmt.Sprintf("connect.%d=%s", port, target))
	}
	return client{name: name, ns: containerNamespace(t, dockertest.Run(t, append(args, dockertest.Image(t))...))}
}

// TestFaultsStayWithTheirConnections gives one container a target of every broken
// kind. While many connections to those hang, it and its neighbour must reach what
// is well at once, and be refused at once what is surely not.
func TestFaultsStayWithTheirConnections(t *testing.T) {
	const (
		good = 6379 + iota
		deafDNS
		deafConsul
		hole
		holeAndGood
		downConsul
		unparsable
		refusing
		nobody
	)
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	server, asked := deafNames(t)
	queried := make(chan struct{}, 1)
	silent := serveIn(t, hostNamespace(t), "127.0.0.1:0", func(conn *net.TCPConn) {
		select {
		case queried <- struct{}{}:
		default:
		}
		_, _ = io.Copy(io.Discard, conn)
	})
	dropped := blackHole(t)
	unlucky := declaring(t, map[int]string{
		good:        backend,
		deafDNS:     "deaf.example.test:80",
		deafConsul:  "consul://" + silent + "/key",
		hole:        dropped,
		holeAndGood: dropped + "," + backend,
		downConsul:  "consul://" + servertest.Nobody(t).String() + "/key",
		unparsable:  "10.0.0.1:http",
		refusing:    servertest.Nobody(t).String(),
		nobody:      "docker://no-such-container:80",
	})
	neighbour := declaring(t, map[int]string{good: backend})
	d := startIn(t, hostNamespace(t), map[string]string{"/etc/resolv.conf": "nameserver " + server + "\n"}, nil,
		"run", "--resolve-timeout", "4s", "--dial-timeout", "6s", "--default", "wait=0s")
	attachedTo(d, []client{unlucky, neighbour})

	// What hangs, and the reason to be given at last.
	hanging := map[int]string{deafDNS: "resolve_failed", deafConsul: "resolve_failed", hole: "dial_failed"}
	const each = 8
	var waiting sync.WaitGroup
	for port := range hanging {
		for range each {
			waiting.Go(func() {
				if _, err := refused(unlucky.ns, loopback(port)); err != nil {
					t.Errorf("a hanging connection: %v", err)
				}
			})
		}
	}
	// Half of these dial the black hole first. They take their time and succeed.
	const listed = 16
	for range listed {
		waiting.Go(func() {
			if _, err := echoed(unlucky.ns, loopback(holeAndGood)); err != nil {
				t.Errorf("a list with a good endpoint: %v", err)
			}
		})
	}
	for what, sign := range map[string]<-chan struct{}{"DNS": asked, "Consul": queried} {
		select {
		case <-sign:
		case <-time.After(10 * time.Second):
			t.Fatalf("within 10 s the daemon has not asked %s", what)
		}
	}

	for range 25 {
		for _, c := range []client{unlucky, neighbour} {
			d.atOnce(c, good, echoed)
		}
	}
	for port, reason := range map[int]string{
		downConsul: "resolve_failed", unparsable: "no_binding", refusing: "dial_failed", nobody: "no_endpoints",
	} {
		l := d.atOnce(unlucky, port, refused)
		if l.str("reason") != reason || l.str("error") == "" {
			t.Errorf("port %d: the daemon logged %v, want the reason %s and an error", port, l, reason)
		}
	}
	// All that would prove nothing if the others had not been hanging meanwhile.
	if n := d.logged(unlucky.name, hole); n != 0 {
		t.Errorf("%d connections to the black hole have ended meanwhile, want none", n)
	}

	waiting.Wait()
	for port, reason := range hanging {
		eventually(t, fmt.Sprintf("%d connections to port %d are logged", each, port), func() bool {
			return d.logged(unlucky.name, port) == each
		})
		d.connection(unlucky.name, port, func(l line) bool { return l.str("reason") == reason && l.str("error") != "" })
		d.mu.Lock()
		for _, l := range d.lines {
			if l.str("msg") == "connection" && l.num("port") == int64(port) && l.str("reason") != reason {
				t.Errorf("port %d: the daemon logged %v, want the reason %s", port, l, reason)
			}
		}
		d.mu.Unlock()
	}
	second := d.connection(unlucky.name, holeAndGood, func(l line) bool { return l.num("attempts") == 2 })
	if second.str("endpoint") != backend || second.str("reason") != "" {
		t.Errorf("a connection that tried the black hole first: %v, want that %s served it", second, backend)
	}
}

// TestBrokenLabelsAreQuarantined has one container with 300 declarations that do
// not parse.
func TestBrokenLabelsAreQuarantined(t *testing.T) {
	const first, broken = 2000, 300
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	targets := map[int]string{6379: backend}
	for i := range broken {
		targets[first+i] = "redis:" + strings.Repeat("x", i)
	}
	mistaken, neighbour := declaring(t, targets), declaring(t, map[int]string{6379: backend})
	d := start(t, "run")
	attachedTo(d, []client{mistaken, neighbour})
	for _, c := range []client{mistaken, neighbour} {
		d.atOnce(c, 6379, echoed)
	}
	// The first are told one by one, and then how many more there are.
	d.wait("the first mistake", 10*time.Second, func(l line) bool {
		return l.str("msg") == "declaration" && l.str("client") == mistaken.name && l.str("origin") == "label connect."+strconv.Itoa(first) &&
			strings.Contains(l.str("error"), "column") && l.str("hint") != ""
	})
	d.wait("the number of the others", 10*time.Second, func(l line) bool {
		return l.str("msg") == "declaration" && l.str("client") == mistaken.name && l.str("hint") != "" &&
			strings.Contains(l.str("error"), strconv.Itoa(broken-9)+" more problems with its declarations")
	})
	for _, port := range []int{first, first + broken/2, first + broken - 1} {
		origin := "label connect." + strconv.Itoa(port)
		l := d.atOnce(mistaken, port, refused)
		for _, want := range []string{mistaken.name, origin, "column"} {
			if !strings.Contains(l.str("error"), want) {
				t.Errorf("port %d: the error %q does not name %q", port, l.str("error"), want)
			}
		}
		if l.str("reason") != "no_binding" || l.str("hint") == "" {
			t.Errorf("port %d: the daemon logged %v, want the reason no_binding and a hint", port, l)
		}
	}
}

// TestConsulComesBack starts while Consul is down, and loses it again.
func TestConsulComesBack(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	consul := consultest.Start(t)
	consul.Stop(t)
	c := declaring(t, map[int]string{6379: "consul://" + consul.HTTPAddr + "/services/redis"})
	d := start(t, "run", "--default", "wait=0s")
	attachedTo(d, []client{c})
	l := d.atOnce(c, 6379, refused)
	if l.str("reason") != "resolve_failed" || !strings.Contains(l.str("error"), consul.HTTPAddr) {
		t.Errorf("the daemon logged %v, want the reason resolve_failed and %s in the error", l, consul.HTTPAddr)
	}

	consul.Restart(t)
	putKey(t, consul, "services/redis", backend)
	// The daemon would ask again by itself, by and by; a connection makes it ask
	// now, unless it has been told of a failure within the last second.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	for {
		_, err := echoed(c.ns, loopback(6379))
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("3 s after Consul is back: %v, want an echo", err)
		}
	}

	well := time.Now()
	consul.Stop(t)
	d.wait("that Consul is down", 10*time.Second, func(l line) bool {
		at, err := time.Parse(time.RFC3339Nano, l.str("time"))
		return err == nil && at.After(well) && l.str("msg") == "source failed; the last answer stays"
	})
	d.atOnce(c, 6379, echoed) // by what Consul said last
}
