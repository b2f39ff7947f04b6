//go:build integration

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// counted is an echo server on this host, and how often it was reached.
func counted(t *testing.T, address string) (string, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	return serveIn(t, hostNamespace(t), address, func(conn *net.TCPConn) { n.Add(1); echo(conn) }), &n
}

// denied demands that the connection is reset, and its line in the log.
func (d *daemon) denied(c client, port int, says ...string) {
	d.t.Helper()
	if _, err := refused(c.ns, loopback(port)); err != nil {
		d.t.Errorf("port %d: %v", port, err)
	}
	says = append(says, c.name)
	d.connection(c.name, port, func(l line) bool {
		return l.str("reason") == "denied" && l.str("hint") != "" &&
			!slices.ContainsFunc(says, func(text string) bool { return !strings.Contains(l.str("error"), text) })
	})
}

// TestContainersDoNotReachWhatIsTheHosts: whatever way a container names it; others, and
// its own honest targets, are served beside it.
func TestContainersDoNotReachWhatIsTheHosts(t *testing.T) {
	private, reached := counted(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(private)
	gateway := dockerHost(t)
	open, _ := counted(t, gateway+":0")
	engine, asEngine := counted(t, gateway+":2375")
	registry := &http.Server{Addr: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		w.WriteHeader(http.StatusNotFound)
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = registry.Serve(listener) }()
	t.Cleanup(func() { registry.Close() })
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("root:$6$hash\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	tenant := declaring(t, map[int]string{
		1:  private,
		2:  "0.0.0.0:" + port,
		3:  "[::ffff:127.0.0.1]:" + port,
		4:  "inside.test:" + port,
		5:  "169.254.169.254:80",
		6:  engine,
		7:  "consul://" + listener.Addr().String() + "/k",
		8:  "file://" + secret,
		9:  "etcd://" + private + "/k",
		10: "dns://" + private + "/a.test:80",
		11: "consul://inside.test:" + port + "/k",
		12: "169.254.169.254:80 | " + private,
		80: private + "," + open, // what is not denied is served
		81: open,
	})
	checking := labelled(t, "connect.80="+open, "connect.80.check=tcp", "connect.80.check-port=2375", "connect.80.check-interval=100ms")
	d := startStrictIn(t, hostNamespace(t), map[string]string{"/etc/hosts": string(hosts) + "\n127.0.0.1 inside.test\n"}, nil, "run", "--limit", "check*=allow")
	attachedTo(d, []client{tenant, checking})
	honest := besideHonest(t, d)

	d.denied(tenant, 1, private, "loopback")
	d.denied(tenant, 2, "0.0.0.0:"+port)
	d.denied(tenant, 3, "loopback")
	d.denied(tenant, 4, private, "loopback")
	d.denied(tenant, 5, "clouds")
	d.denied(tenant, 6, engine, "engine")
	d.denied(tenant, 7, listener.Addr().String(), "loopback")
	d.denied(tenant, 8, secret)
	d.denied(tenant, 9, private, "loopback")
	d.denied(tenant, 10, private, "loopback")
	d.denied(tenant, 11, "inside.test:"+port, "loopback")
	d.denied(tenant, 12, "169.254.169.254")
	for range 10 {
		for _, c := range []struct {
			client
			port int
		}{{tenant, 80}, {tenant, 81}, {checking, 80}} {
			if _, err := echoed(c.ns, loopback(c.port)); err != nil {
				t.Errorf("%s, port %d: %v", c.name, c.port, err)
			}
		}
	}
	d.wait("that the check is not made", 10*time.Second, func(l line) bool {
		return l.str("msg") == "an endpoint is not checked" && strings.Contains(l.str("error"), engine)
	})
	honest.want()
	if n := reached.Load() + asEngine.Load(); n > 0 {
		t.Errorf("what is the host's own was reached %d times", n)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if strings.Contains(d.raw.String(), "$6$hash") {
		t.Error("the log quotes the file that a container named")
	}
	if strings.Contains(d.raw.String(), `"ejected`) {
		t.Error("an endpoint was ejected for what the policy denied")
	}
}

// TestOperatorAllowsLoopback: by a flag, by what the daemon is told itself, and where the
// engine publishes a port.
func TestOperatorAllowsLoopback(t *testing.T) {
	private, _ := counted(t, "127.0.0.1:0")
	web := dockertest.Name(t)
	dockertest.Run(t, "--name", web, "-p", "127.0.0.1::80", dockertest.Image(t), "nc", "-ll", "-p", "80", "-e", "cat")
	tenant := declaring(t, map[int]string{1: private, 2: "docker://" + web + ":80?published=1"})
	legacy := dockertest.Name(t)
	configured := client{name: legacy, ns: containerNamespace(t, dockertest.Run(t, "--name", legacy, dockertest.Image(t)))}
	listen := freeAddrs(t, 1)[0]
	file := filepath.Join(t.TempDir(), "ambassadord.yml")
	text := fmt.Sprintf("listen:\n  - {address: %q, target: %q}\nclients:\n  - {container: %s, ports: {6379: %q}}\n", listen, private, legacy, private)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := startStrict(t, "run", "--mode", "redirect", "--config", file)
	attachedTo(d, []client{tenant, configured})
	d.denied(tenant, 1, "loopback")
	if _, err := echoed(tenant.ns, loopback(2)); err != nil {
		t.Errorf("a published port: %v", err)
	}
	if _, err := echoed(configured.ns, loopback(6379)); err != nil {
		t.Errorf("what the configuration declares for a container: %v", err)
	}
	if _, err := echoed(hostNamespace(t), listen); err != nil {
		t.Errorf("a listener's target: %v", err)
	}
	// A reload opens and closes it, for new connections at once.
	reload := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text+more), 0o600); err != nil {
			t.Fatal(err)
		}
		d.mu.Lock()
		before := len(d.lines)
		d.mu.Unlock()
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		at := 0
		d.wait("the reload", 20*time.Second, func(l line) bool { at++; return at > before && l.str("msg") == "read the configuration again" })
	}
	reload("allow-loopback: true\n")
	live := dialIn(t, tenant.ns, loopback(1))
	if err := pingPong(live); err != nil {
		t.Errorf("with allow-loopback: %v", err)
	}
	reload("policy:\n  - {name: no-db, action: deny, container: \"*\", to: 127.0.0.0/8}\n")
	if err := pingPong(live); err != nil {
		t.Errorf("a connection that was open before the reload: %v", err)
	}
	d.denied(tenant, 1, `rule 1 "no-db" in `+file+":6:5")
	d.stop()

	d = startStrict(t, "run", "--allow-loopback")
	attachedTo(d, []client{tenant})
	if _, err := echoed(tenant.ns, loopback(1)); err != nil {
		t.Errorf("with --allow-loopback: %v", err)
	}
}

// TestImageDeclarationsCanBeSwitchedOff: what an image itself declares does not count then,
// what a container from it was given does.
func TestImageDeclarationsCanBeSwitchedOff(t *testing.T) {
	open, _ := counted(t, dockerHost(t)+":0")
	image := strings.ToLower(dockertest.Name(t))
	build := exec.Command("docker", "build", "-q", "-t", image, "-")
	build.Stdin = strings.NewReader(fmt.Sprintf("FROM %s\nLABEL connect.6379=%s\nENV BACKEND_6380=%s\n", dockertest.Image(t), open, open))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { dockertest.Docker(t, "rmi", "-f", image) })
	name := dockertest.Name(t)
	c := client{name: name, ns: containerNamespace(t, dockertest.Run(t, "--name", name, "-l", "connect.80="+open, "-e", "CONNECT_81="+open, image))}
	d := startStrict(t, "run", "--image-declarations", "off")
	d.attached(c.name)
	for port, want := range map[int]bool{80: true, 81: true, 6379: false, 6380: false} {
		if !want {
			d.denied(c, port, "--image-declarations off")
		} else if _, err := echoed(c.ns, loopback(port)); err != nil {
			t.Errorf("port %d: %v", port, err)
		}
	}
	d.stop()
	d = startStrict(t, "run")
	d.attached(c.name)
	for _, port := range []int{80, 81, 6379, 6380} {
		if _, err := echoed(c.ns, loopback(port)); err != nil {
			t.Errorf("port %d, by default: %v", port, err)
		}
	}
}
