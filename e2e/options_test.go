//go:build integration

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// labelled starts a container with those labels, KEY=VALUE.
func labelled(t *testing.T, labels ...string) client {
	t.Helper()
	name := dockertest.Name(t)
	args := []string{"--name", name}
	for _, l := range labels {
		args = append(args, "-l", l)
	}
	return client{name: name, ns: containerNamespace(t, dockertest.Run(t, append(args, dockertest.Image(t))...))}
}

// TestEndpointLearnsWhoTheClientIs: by the PROXY protocol, from its own port on.
func TestEndpointLearnsWhoTheClientIs(t *testing.T) {
	said := make(chan string, 2)
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		header, err := proxyproto.Read(reader)
		if err != nil {
			said <- err.Error()
			return
		}
		text := fmt.Sprintf("version %d from %s to %s", header.Version, header.SourceAddr, header.DestinationAddr)
		tlvs, _ := header.TLVs()
		for _, tlv := range tlvs {
			text += fmt.Sprintf(" %#x=%s", int(tlv.Type), tlv.Value)
		}
		said <- text
		_, _ = io.Copy(conn, reader)
	})
	c := labelled(t, "connect.6379="+backend, "connect.6379.proxy-protocol=v1",
		"connect.6380="+backend, "connect.6380.proxy-protocol=v2", "connect.6380.proxy-protocol-tlvs=labels", "connect.6380.proxy-protocol-max=4112", "app=shop")
	ip := dockertest.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", c.name)
	d := start(t, "run", "--limit", "proxy-protocol*=allow")
	d.attached(c.name)
	for port, want := range map[int][]string{
		6379: {"version 1 from " + ip + ":", " to 127.0.0.1:6379"},
		6380: {"version 2 from " + ip + ":", " to 127.0.0.1:6380", " 0xe0=" + c.name, " 0xe2=app=shop"},
	} {
		if _, err := echoed(c.ns, loopback(port)); err != nil {
			t.Fatal(err)
		}
		got := <-said
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("port %d: the endpoint was told %q; want %q in it", port, got, part)
			}
		}
	}
}

// TestConnectionsAreMovedOffAnEndpointThatLeft: with on-removal=drain one is reset some
// time after its endpoint left the target, and with keep it is not.
func TestConnectionsAreMovedOffAnEndpointThatLeft(t *testing.T) {
	first := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	second := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	list := filepath.Join(t.TempDir(), "list")
	write := func(address string) {
		if err := os.WriteFile(list, []byte(address+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first)
	c := labelled(t, "connect.6379=file://"+list, "connect.6379.on-removal=drain", "connect.6379.drain-after=100ms",
		"connect.6380=file://"+list)
	d := start(t, "run")
	d.attached(c.name)
	moved, kept := dialIn(t, c.ns, "127.0.0.1:6379"), dialIn(t, c.ns, "127.0.0.1:6380")
	for _, conn := range []*net.TCPConn{moved, kept} {
		if err := pingPong(conn); err != nil {
			t.Fatal(err)
		}
	}
	write(second)
	if _, err := moved.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that is to be drained reads %v; want a reset", err)
	}
	d.connection(c.name, 6379, func(l line) bool { return l.str("reason") == "endpoint_removed" && l.str("endpoint") == first })
	if err := pingPong(kept); err != nil {
		t.Errorf("the connection that is to be kept: %v", err)
	}
	if _, err := echoed(c.ns, loopback(6379)); err != nil {
		t.Fatal(err)
	}
	d.connection(c.name, 6379, func(l line) bool { return l.str("endpoint") == second })
}

// TestFrozenEndpoint: a process that hangs closes nothing, so its idle connections are closed
// when checks have found that out; with on-unhealthy=keep they wait until it goes on.
func TestFrozenEndpoint(t *testing.T) {
	frozen, well := startRedis(t, "127.0.0.1"), startRedis(t, "127.0.0.1")
	target := frozen.addr.String() + "," + well.addr.String()
	c := labelled(t, "connect.6379="+target, "connect.6380="+target, "connect.6380.on-unhealthy=keep", "connect.policy=first")
	d := start(t, "run", "--allow-loopback", "--default", "check=tcp", "--default", `check-send=PING\r\n`, "--default", "check-expect=PONG",
		"--default", "check-interval=100ms", "--default", "check-timeout=200ms")
	d.attached(c.name)
	ping := func(conn *net.TCPConn) error {
		answer := make([]byte, len("+PONG\r\n"))
		if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, answer)
		return err
	}
	var pool []*net.TCPConn
	for _, port := range []int{6379, 6379, 6380} {
		conn := dialIn(t, c.ns, loopback(port))
		if err := ping(conn); err != nil {
			t.Fatal(err)
		}
		pool = append(pool, conn)
	}
	thaw := frozen.Freeze(t)
	defer thaw()
	for _, conn := range pool[:2] {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an idle connection reads %v; want a reset", err)
		}
		d.connection(c.name, 6379, func(l line) bool {
			return l.str("reason") == "endpoint_unhealthy" && l.str("endpoint") == frozen.addr.String() && strings.Contains(l.str("hint"), "on-unhealthy")
		})
	}
	if err := ping(dialIn(t, c.ns, loopback(6379))); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	thaw()
	if err := ping(pool[2]); err != nil {
		t.Errorf("the connection that is to be kept: %v", err)
	}
}

// TestLimitsOfAClient: past its limit a connection waits for a place, and is reset when
// there is none in time; another container is not concerned.
func TestLimitsOfAClient(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	limited := labelled(t, "connect.6379="+backend, "connect.6379.client-limit=1", "connect.6379.wait=300ms",
		"connect.6380="+backend, "connect.6380.client-limit=1", "connect.6380.wait=20s",
		"connect.6381="+backend, "connect.6381.idle-timeout=100ms")
	other := labelled(t, "connect.6379="+backend, "connect.6379.client-limit=1")
	d := start(t, "run")
	attachedTo(d, []client{limited, other})
	for _, port := range []int{6379, 6380} {
		first := dialIn(t, limited.ns, loopback(port))
		if err := pingPong(first); err != nil {
			t.Fatal(err)
		}
		if port == 6379 {
			if _, err := refused(limited.ns, loopback(port)); err != nil {
				t.Error(err)
			}
			d.connection(limited.name, port, func(l line) bool {
				return l.str("reason") == "over_limit" && strings.Contains(l.str("error"), limited.name) && strings.Contains(l.str("hint"), "client-limit")
			})
			if _, err := echoed(other.ns, loopback(port)); err != nil {
				t.Errorf("another container: %v", err)
			}
			continue
		}
		queued := make(chan error, 1)
		go func() {
			_, err := echoed(limited.ns, loopback(port))
			queued <- err
		}()
		select {
		case err := <-queued:
			t.Errorf("past the limit: %v; want it to wait", err)
		case <-time.After(500 * time.Millisecond): // it may be served no sooner than the first ends
		}
		first.Close()
		if err := <-queued; err != nil {
			t.Errorf("the one that waited: %v", err)
		}
	}
	idle := dialIn(t, limited.ns, "127.0.0.1:6381")
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the idle one reads %v; want a reset", err)
	}
	d.connection(limited.name, 6381, func(l line) bool { return l.str("reason") == "idle_timeout" })
}

// TestPeerSpeaksForItsClients: a listener believes the PROXY header of those whom it is
// told to, and passes their client on.
func TestPeerSpeaksForItsClients(t *testing.T) {
	said := make(chan net.Addr, 1)
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", func(conn *net.TCPConn) {
		reader := bufio.NewReader(conn)
		if header, err := proxyproto.Read(reader); err == nil {
			said <- header.SourceAddr
		}
		_, _ = io.Copy(conn, reader)
	})
	file := filepath.Join(t.TempDir(), "ambassadord.yml")
	config := fmt.Sprintf(`listen:
  - address: %s
    target: %s
    proxy-protocol: v2
    accept-proxy-protocol-from: [127.0.0.0/8]
`, freeAddrs(t, 1)[0], backend)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, "run", "--config", file)
	address := d.wait("listening", 10*time.Second, func(l line) bool { return l.str("msg") == "listening" }).str("address")
	conn := dialIn(t, hostNamespace(t), address)
	header := proxyproto.HeaderProxyFromAddrs(1,
		net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.7:4000")), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.8:80")))
	if _, err := header.WriteTo(conn); err != nil {
		t.Fatal(err)
	}
	if err := pingPong(conn); err != nil {
		t.Fatal(err)
	}
	if got := (<-said).String(); got != "192.0.2.7:4000" {
		t.Errorf("the endpoint was told %s; want the first peer's client", got)
	}
	conn.Close()
	d.wait("its connection", 10*time.Second, func(l line) bool {
		return l.str("msg") == "connection" && l.str("client") == "192.0.2.7" && l.num("bytes_up") == l.num("bytes_down")
	})
}
