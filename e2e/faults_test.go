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

// refused dials and returns how long it took until the connection was reset; any
// other end is an error.
func refused(ns *netns.Namespace, address string) (time.Duration, error) {
	began := time.Now()
	conn, err := tryDialIn(ns, address)
	if errors.Is(err, syscall.ECONNRESET) { // so soon that connect itself reports it
		return time.Since(began), nil
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	n, err := io.Copy(io.Discard, conn)
	if !errors.Is(err, syscall.ECONNRESET) {
		return 0, fmt.Errorf("%s: %d bytes and then %w, want a reset", address, n, errOr(err, io.EOF))
	}
	return time.Since(began), nil
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// echoed dials and returns how long it took until an echo came back.
func echoed(ns *netns.Namespace, address string) (time.Duration, error) {
	began := time.Now()
	conn, err := tryDialIn(ns, address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := pingPong(conn); err != nil {
		return 0, fmt.Errorf("%s: %w", address, err)
	}
	return time.Since(began), nil
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

	for i := range 25 {
		for _, c := range []client{unlucky, neighbour} {
			if took, err := echoed(c.ns, loopback(good)); err != nil || took > soon {
				t.Errorf("good connection %d of %s: %v after %s, want an echo within %s", i, c.name, err, took, soon)
			}
		}
	}
	for port, reason := range map[int]string{
		downConsul: "resolve_failed", unparsable: "no_binding", refusing: "dial_failed", nobody: "no_endpoints",
	} {
		if took, err := refused(unlucky.ns, loopback(port)); err != nil || took > soon {
			t.Errorf("port %d (%s): %v after %s, want a reset within %s", port, reason, err, took, soon)
		}
		l := d.connection(unlucky.name, port, nil)
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
		if took, err := echoed(c.ns, loopback(6379)); err != nil || took > soon {
			t.Errorf("%s: %v after %s, want an echo within %s", c.name, err, took, soon)
		}
	}
	for _, port := range []int{first, first + broken/2, first + broken - 1} {
		origin := "label connect." + strconv.Itoa(port)
		d.wait("the mistake in "+origin, 10*time.Second, func(l line) bool {
			return l.str("msg") == "declaration" && l.str("client") == mistaken.name && l.str("origin") == origin &&
				strings.Contains(l.str("error"), "column") && l.str("hint") != ""
		})
		if took, err := refused(mistaken.ns, loopback(port)); err != nil || took > soon {
			t.Errorf("port %d: %v after %s, want a reset within %s", port, err, took, soon)
		}
		l := d.connection(mistaken.name, port, nil)
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
	if took, err := refused(c.ns, loopback(6379)); err != nil || took > soon {
		t.Errorf("with Consul down: %v after %s, want a reset within %s", err, took, soon)
	}
	l := d.connection(c.name, 6379, nil)
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
	if took, err := echoed(c.ns, loopback(6379)); err != nil || took > soon {
		t.Errorf("with Consul down again: %v after %s, want an echo within %s by what it said last", err, took, soon)
	}
}
