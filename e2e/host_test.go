//go:build integration

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// The addresses of mode host, as docs/modes.md gives them.
const hostAddr4, hostAddr6 = "169.254.77.1", "fd61:6d62:6173::1"

// perContainer is a rule that the engine has for one container: 29 makes one in the table raw
// for each, which comes and goes with that.
var perContainer = regexp.MustCompile(`(?m)^-A PREROUTING -d \S+ ! -i \S+ -j DROP\n`)

// withoutContainers is what iptables-save prints, without what the engine has for each
// container, and without a table raw that holds nothing else.
func withoutContainers(saved string) string {
	const empty = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
	return strings.ReplaceAll(perContainer.ReplaceAllString(saved, ""), empty, "")
}

// hostState is all of the host's that mode host touches.
func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
		b.WriteString(withoutContainers(filtertest.Save(t, hostNamespace(t), f)))
	}
	for _, command := range [][]string{{"ip", "addr", "show", "lo"}, {"nft", "list", "tables", "bridge"}} {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
		}
		b.Write(out)
	}
	return b.String()
}

func wantHostState(t *testing.T, before string) {
	t.Helper()
	if after := hostState(t); after != before {
		t.Errorf("the host before:\n%s\nand after, want the same:\n%s", before, after)
	}
}

// startHost starts the daemon in mode host and returns the port it listens on.
func startHost(t *testing.T, args ...string) (d *daemon, listen string) {
	t.Helper()
	d = start(t, append([]string{"run", "--mode", "host"}, args...)...)
	l := d.wait("the host address", time.Second, func(l line) bool {
		return l.str("msg") == "listening for containers" && l.str("address") == hostAddr4
	})
	return d, netip.MustParseAddrPort(l.str("listen")).String()
}

func TestHost(t *testing.T) {
	server := startRedis(t, "127.0.0.1")
	user := dockertest.Network(t, "--ipv6", "--subnet", "fd00:77:1::/64")
	other := dockertest.Name(t)
	dockertest.Run(t, "--name", other, "--network", user, dockertest.Image(t))
	type container struct{ name, id string }
	run := func(options ...string) container {
		name := dockertest.Name(t)
		return container{name, dockertest.Run(t, append(options, "--name", name, clientOption(t),
			"-l", "connect.6379="+server.addr.String(),
			"-l", "connect.61000="+server.addr.String(), // where the daemon listens, if that is free
			dockertest.Image(t))...)}
	}
	bridge, onUser := run(), run("--network", user)
	before := hostState(t)
	d, listen := startHost(t)

	for _, c := range []container{bridge, onUser, run(), run("--network", user)} {
		setAndGet(t, c.id, hostAddr4, "6379", server.addr.Port())
		if l := d.connection(c.name, 6379, nil); l.str("id") != c.id[:12] || l.str("endpoint") != server.addr.String() {
			t.Errorf("log line %v; want the ID and the endpoint %s", l, server.addr)
		}
		wantReset(t, c.id, hostAddr4+":6380")
		if l := d.connection(c.name, 6380, nil); l.str("reason") != "no_binding" {
			t.Errorf("log line %v; want the reason no_binding", l)
		}
		wantReset(t, c.id, listen)
	}
	setAndGet(t, onUser.id, hostAddr6, "6379", server.addr.Port())
	wantReset(t, onUser.id, "["+hostAddr6+"]:6380")
	wantDNS(t, onUser.id, other)

	// The host itself is no client.
	if conn, err := net.DialTimeout("tcp", hostAddr4+":6379", 2*time.Second); err == nil {
		conn.Close()
		t.Error("the host itself was connected")
	}
	// Without the rules nobody is served, and they come back.
	filtertest.FlushChain(t, hostNamespace(t), netrules.IPv4, netrules.HostChain)
	d.wait("repaired", 20*time.Second, func(l line) bool { return l.str("msg") == "repaired the rules of mode host" })
	setAndGet(t, bridge.id, hostAddr4, "6379", server.addr.Port())

	d.stop()
	wantDNS(t, onUser.id, other)
	wantHostState(t, before)
}

// Once an address has been a container's for a while the guard proves that, and the
// engine is not asked at each connection whose it is, nor missed. That ends with the
// container: the next owner of its address, of whom the daemon hears nothing, must not get
// to the target of the old one.
func TestHostProven(t *testing.T) {
	network := dockertest.Network(t, "--subnet", "203.0.113.0/28")
	engine := startEngineProxy(t)
	_, listen := startHost(t, "--docker-host", "unix://"+engine.dir+"/docker.sock")
	c := &churn{t: t}
	c.listen("127.0.0.1", 2)
	run := func(token string, b *backend) (id string, ask func() error) {
		c.expect(token, b)
		id = dockertest.Run(t, "--network", network, "--ip", "203.0.113.10", "-l", "connect.7000="+b.target(),
			clientOption(t), dockertest.Image(t))
		return id, func() error {
			out, err := dockertest.Exec(t, id, "/client", "-token", token, "-want", b.name, "-within", "0", "-patience", "2s", hostAddr4+":7000")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
	}
	old, ask := run("old", c.backends[0])
	poll(t, 20*time.Second, "the guard proves whose address it is", func() error {
		before := engine.inspections.Load()
		err := ask()
		if n := engine.inspections.Load() - before; err == nil && n > 0 {
			err = fmt.Errorf("the engine was asked %d times", n)
		}
		return err
	})

	wantReset(t, old, hostAddr4+":7001") // which it does not declare
	wantReset(t, old, listen)

	engine.mute.Store(true)
	engine.hangUp()
	if err := ask(); err != nil {
		t.Errorf("while the engine answers nothing: %v", err)
	}

	dockertest.Docker(t, "rm", "-f", old)
	_, ask = run("new", c.backends[1])
	if err := ask(); err == nil {
		t.Error("the new owner of the address was connected; the daemon cannot know it")
	}
	engine.mute.Store(false)
	poll(t, 30*time.Second, "the new owner gets to its own target", ask)
	c.checkForeign()
}

// What a killed daemon leaves does no harm, and the next one takes it over.
func TestHostAfterKill(t *testing.T) {
	server := startRedis(t, "127.0.0.1")
	id := dockertest.Run(t, "-l", "connect.6379="+server.addr.String(), dockertest.Image(t))
	before := hostState(t)
	d, _ := startHost(t)
	setAndGet(t, id, hostAddr4, "6379", server.addr.Port())
	d.kill()
	if out, err := exec.Command("nft", "list", "tables", "bridge").CombinedOutput(); err != nil || strings.Contains(string(out), "ambassadord") {
		t.Errorf("bridge tables after kill -9: %v: %s", err, out)
	}
	if out, err := exec.Command("ip", "addr", "show", "lo").CombinedOutput(); err != nil || strings.Contains(string(out), hostAddr4+"/32 scope host deprecated lo\n       valid_lft forever") {
		t.Errorf("the address is there for ever: %v: %s", err, out)
	}
	next, _ := startHost(t)
	setAndGet(t, id, hostAddr4, "6379", server.addr.Port())
	next.stop()
	wantHostState(t, before)
}

// An address that was there before stays.
func TestHostAddressOfAnother(t *testing.T) {
	ip := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("addr", "add", "169.254.77.99/32", "dev", "lo")
	t.Cleanup(func() { ip("addr", "del", "169.254.77.99/32", "dev", "lo") })
	server := startRedis(t, "127.0.0.1")
	id := dockertest.Run(t, "-l", "connect.6379="+server.addr.String(), dockertest.Image(t))
	before := hostState(t)
	d := start(t, "run", "--mode", "host", "--host-addr", "169.254.77.99")
	setAndGet(t, id, "169.254.77.99", "6379", server.addr.Port())
	d.stop()
	wantHostState(t, before)
}

// forgeOption mounts the program of e2e/internal/forge into a container, where it
// is /forge.
func forgeOption(t *testing.T) string {
	t.Helper()
	path, err := buildForge()
	if err != nil {
		t.Fatal(err)
	}
	return "-v=" + path + ":/forge:ro"
}

var buildForge = program("forge")

// forge forges connections from one container's address in another. At the end the next
// hop, which is in ns, forgets where it was told that the victim is: what it was told
// before there was a guard stays until the kernel asks again, which takes it a while.
func forge(t *testing.T, ns *netns.Namespace, attacker, victim, via, target, count string) string {
	t.Helper()
	source := strings.Fields(dockertest.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", victim))[0]
	out, err := dockertest.Exec(t, attacker, "/forge", "-source", source, "-via", via, "-n", count, "-wait", "3s", target)
	if err != nil {
		t.Fatalf("forge: %v: %s", err, out)
	}
	if err := ns.Do(func() error { return exec.Command("ip", "neigh", "flush", "to", source).Run() }); err != nil {
		t.Fatalf("ip neigh flush: %v", err)
	}
	return strings.TrimSpace(out)
}

func TestHostForgery(t *testing.T) {
	target := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	victim, attacker := dockertest.Name(t), dockertest.Name(t)
	dockertest.Run(t, "--name", victim, clientOption(t), "-l", "connect.6379="+target, dockertest.Image(t))
	dockertest.Run(t, "--name", attacker, clientOption(t), forgeOption(t), dockertest.Image(t))
	gateway, host := dockerHost(t), hostNamespace(t)
	honest := func() {
		t.Helper()
		if out, err := dockertest.Exec(t, victim, "/client", hostAddr4+":6379"); err != nil {
			t.Errorf("the honest container: %v: %s", err, out)
		}
		wantReset(t, attacker, hostAddr4+":6379")
	}

	// Without the privilege that the guard needs, and with trust: the forgery works.
	d := launchWithoutAdmin(t, "--trust-source-addresses")
	d.wait("the warning", time.Second, func(l line) bool {
		return strings.HasPrefix(l.str("msg"), "source addresses are believed unchecked")
	})
	if got := forge(t, host, attacker, victim, gateway, hostAddr4+":6379", "20"); strings.HasSuffix(got, "answered 0") {
		t.Errorf("without a guard the forgery fails too (%s), so this test shows nothing", got)
	}
	d.stop()

	// Without trust it is refused, as is every container that could be meant.
	d = launchWithoutAdmin(t)
	if got := forge(t, host, attacker, victim, gateway, hostAddr4+":6379", "20"); !strings.HasSuffix(got, "answered 0") {
		t.Error(got)
	}
	wantReset(t, victim, hostAddr4+":6379")
	if l := d.connection(victim, 6379, nil); l.str("reason") != "denied" || l.str("hint") == "" {
		t.Errorf("log line %v; want the reason denied and a hint", l)
	}
	// Where no container can forge, all are served.
	network := dockertest.Network(t)
	harmless := dockertest.Run(t, "--network", network, "--cap-drop", "NET_RAW", clientOption(t), "-l", "connect.6379="+target, dockertest.Image(t))
	if out, err := dockertest.Exec(t, harmless, "/client", hostAddr4+":6379"); err != nil {
		t.Errorf("a container that cannot forge, beside none that can: %v: %s", err, out)
	}
	d.stop()

	// With the guard it fails.
	d, _ = startHost(t)
	honest()
	if got := forge(t, host, attacker, victim, gateway, hostAddr4+":6379", "1000"); got != "sent 1000 accepted 0 answered 0" {
		t.Error(got)
	}
	honest()
	d.stop()
}

// launchWithoutAdmin starts mode host without CAP_SYS_ADMIN.
func launchWithoutAdmin(t *testing.T, args ...string) *daemon {
	t.Helper()
	command := append([]string{"--bounding-set=-sys_admin", "--inh-caps=-sys_admin", binary, "run", "--allow-loopback", "--mode", "host", "--log-format", "json"}, args...)
	d := launch(t, exec.Command("setpriv", command...), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

func TestLinkForgery(t *testing.T) {
	target := serveIn(t, hostNamespace(t), dockerHost(t)+":0", echo)
	network := dockertest.Network(t)
	victim, attacker := dockertest.Name(t), dockertest.Name(t)
	options := []string{"--network", network, clientOption(t)}
	dockertest.Run(t, append(options, "--name", victim, "-e", "BACKEND_6379="+target, dockertest.Image(t))...)
	dockertest.Run(t, append(options, "--name", attacker, forgeOption(t), dockertest.Image(t))...)
	link := []string{"--network", network, "--network-alias", "backends", "--cap-add", "NET_ADMIN", engineSocket}

	d := containerDaemon(t, append(link, image(t), "--omnimode")...)
	if got := forge(t, containerNamespace(t, d.id), attacker, victim, d.address(), d.address()+":6379", "20"); strings.HasSuffix(got, "answered 0") {
		t.Errorf("without a guard the forgery fails too (%s), so this test shows nothing", got)
	}
	d.stop()

	d = containerDaemon(t, append(link, image(t), "run", "--mode", "link")...)
	wantReset(t, victim, "backends:6379")
	if l := d.connection(victim, 6379, nil); l.str("reason") != "denied" || l.str("hint") == "" {
		t.Errorf("log line %v; want the reason denied and a hint", l)
	}
	d.stop()

	d = containerDaemon(t, append(link, "--pid", "host", "--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE",
		image(t), "run", "--mode", "link")...)
	honest := func() {
		t.Helper()
		if out, err := dockertest.Exec(t, victim, "/client", "backends:6379"); err != nil {
			t.Errorf("the honest container: %v: %s", err, out)
		}
	}
	honest()
	if got := forge(t, containerNamespace(t, d.id), attacker, victim, d.address(), d.address()+":6379", "1000"); got != "sent 1000 accepted 0 answered 0" {
		t.Error(got)
	}
	honest()
	d.stop()
	if out, err := exec.Command("nft", "list", "tables", "bridge").CombinedOutput(); err != nil || strings.Contains(string(out), "ambassadord") {
		t.Errorf("bridge tables afterwards: %v: %s", err, out)
	}
}
