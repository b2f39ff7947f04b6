//go:build integration

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// A container on any kind of network dials localhost and talks to the Redis that
// Consul knows.
func TestNetworks(t *testing.T) {
	server := startRedis(t, "127.0.0.1")
	agent := consultest.Start(t)
	register(t, agent, "redis", server)
	d := start(t, "run", "--consul-addr", agent.HTTPAddr)

	user, internal := dockertest.Network(t), dockertest.Network(t, "--internal")
	// other is whom the user network's DNS has to name.
	other := dockertest.Name(t)
	dockertest.Run(t, "--name", other, "--network", user, dockertest.Image(t))

	for _, test := range []struct {
		name    string
		options []string
		dial    []string
	}{
		{"default bridge", nil, []string{"localhost", "127.0.0.1", "127.8.9.10"}},
		{"user network", []string{"--network", user}, []string{"localhost"}},
		{"internal network", []string{"--network", internal}, []string{"localhost"}},
		{"no network", []string{"--network", "none"}, []string{"localhost"}},
		{"IPv6 loopback", []string{"--sysctl", "net.ipv6.conf.all.disable_ipv6=0"}, []string{"::1", "localhost", "127.0.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := dockertest.Name(t)
			options := append(test.options, "--name", name, "-l", "connect.6379=consul-service://redis", dockertest.Image(t))
			id := dockertest.Run(t, options...)
			d.attached(name)
			for _, host := range test.dial {
				setAndGet(t, id, host, "6379", server.addr.Port())
			}
			if test.name == "user network" {
				wantDNS(t, id, other)
			}
			l := d.connection(name, 6379, nil)
			if l.str("target") != "consul-service://redis" || l.str("endpoint") != server.addr.String() ||
				l.str("id") != id[:12] || l.num("bytes_up") == 0 || l.num("bytes_down") == 0 || l.str("reason") != "" {
				t.Errorf("log line %v; want the target, the endpoint %s, the ID and bytes both ways", l, server.addr)
			}
		})
	}
}

// wantDNS demands that the engine's own DNS server, which lives on the loopback
// of a user network's containers behind nat rules of its own, still answers.
func wantDNS(t *testing.T, container, name string) {
	t.Helper()
	resolv, err := dockertest.Exec(t, container, "cat", "/etc/resolv.conf")
	if err != nil || !strings.Contains(resolv, "nameserver 127.0.0.11") {
		t.Fatalf("resolv.conf: %q, %v; want the engine's DNS", resolv, err)
	}
	want := strings.Fields(dockertest.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", name))[0]
	out, err := dockertest.Exec(t, container, "nslookup", name, "127.0.0.11")
	if err != nil || !strings.Contains(out, want) {
		t.Errorf("nslookup of another container: %q, %v; want %s", out, err, want)
	}
}

// Redis moves: connections opened a second later reach the new place.
func TestBackendMoves(t *testing.T) {
	before := startRedis(t, "127.0.0.1")
	agent := consultest.Start(t)
	register(t, agent, "redis", before)
	d := start(t, "run", "--consul-addr", agent.HTTPAddr)
	name := dockertest.Name(t)
	id := dockertest.Run(t, "--name", name, "-l", "connect.6379=consul-service://redis", dockertest.Image(t))
	d.attached(name)
	setAndGet(t, id, "localhost", "6379", before.addr.Port())

	after := startRedis(t, "127.0.0.1")
	register(t, agent, "redis", after)
	moved := time.Now()
	// Both run, so whoever still went to the old place would be answered there.
	poll(t, 10*time.Second, "a connection reaches the new Redis", func() error {
		began := time.Now()
		got, err := askRedis(t, id, "localhost", "6379", "CONFIG GET port")
		if err != nil {
			return err
		}
		if port := got[len(got)-1]; port != fmt.Sprint(after.addr.Port()) {
			if began.Sub(moved) > time.Second {
				t.Errorf("a connection opened %s after the move went to port %s", began.Sub(moved), port)
			}
			return fmt.Errorf("it reached port %s", port)
		}
		return nil
	})
	before.Stop(t)
	setAndGet(t, id, "localhost", "6379", after.addr.Port())
	d.connection(name, 6379, func(l line) bool { return l.str("endpoint") == after.addr.String() })
}

func TestDeclarations(t *testing.T) {
	server := startRedis(t, "127.0.0.1")
	target := server.addr.String()
	d := start(t, "run")
	for _, test := range []struct {
		name    string
		options []string
	}{
		{"BACKEND", []string{"-e", "BACKEND_6379=" + target}},
		{"connect", []string{"-e", "connect_6379=" + target}},
		{"mixed case", []string{"-e", "Backend_6379=" + target}},
		{"brackets", []string{"-l", "connect[6379]=" + target}},
		{"label over environment", []string{"-e", "BACKEND_6379=127.0.0.1:1", "-e", "CONNECT_6379=127.0.0.1:1", "-l", "connect.6379=" + target}},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := dockertest.Name(t)
			id := dockertest.Run(t, append(test.options, "--name", name,
				"-l", "com.docker.compose.service=web", dockertest.Image(t))...)
			d.attached(name)
			setAndGet(t, id, "localhost", "6379", server.addr.Port())
			if l := d.connection(name, 6379, nil); l.str("service") != "web" || l.str("target") != target {
				t.Errorf("log line %v; want the service web and the target %s", l, target)
			}
		})
	}
}

// A container that joins another's network shares its loopback, and keeps its
// own name on the ports that it declares.
func TestJoinedNetwork(t *testing.T) {
	ownerRedis, joinerRedis := startRedis(t, "127.0.0.1"), startRedis(t, "127.0.0.1")
	d := start(t, "run")
	owner, joiner := dockertest.Name(t), dockertest.Name(t)
	ownerID := dockertest.Run(t, "--name", owner, "-l", "connect.6379="+ownerRedis.addr.String(), dockertest.Image(t))
	d.attached(owner)
	joinerID := dockertest.Run(t, "--name", joiner, "--network", "container:"+owner,
		"-l", "connect.6380="+joinerRedis.addr.String(), dockertest.Image(t))
	poll(t, 10*time.Second, "the joiner's port is served", func() error {
		_, err := askRedis(t, joinerID, "localhost", "6380")
		return err
	})
	setAndGet(t, joinerID, "localhost", "6380", joinerRedis.addr.Port())
	if l := d.connection(joiner, 6380, nil); l.str("id") != joinerID[:12] || l.str("endpoint") != joinerRedis.addr.String() {
		t.Errorf("log line %v; want the joiner's ID %s and endpoint %s", l, joinerID[:12], joinerRedis.addr)
	}
	setAndGet(t, ownerID, "localhost", "6379", ownerRedis.addr.Port())
	if l := d.connection(owner, 6379, nil); l.str("id") != ownerID[:12] {
		t.Errorf("log line %v; want the owner's ID %s", l, ownerID[:12])
	}

	// The owner's port outlives the joiner, whose own goes with it.
	dockertest.Docker(t, "rm", "-f", joiner)
	poll(t, 10*time.Second, "the dead joiner's port is refused", func() error {
		if got, err := askRedis(t, ownerID, "localhost", "6380"); err == nil {
			return fmt.Errorf("it was served: %q", got)
		}
		return nil
	})
	setAndGet(t, ownerID, "localhost", "6379", ownerRedis.addr.Port())
}

// A restart gives a container a new network namespace under its old ID.
func TestContainerRestarts(t *testing.T) {
	server := startRedis(t, "127.0.0.1")
	d := start(t, "run")
	name := dockertest.Name(t)
	id := dockertest.Run(t, "--name", name, "-l", "connect.6379="+server.addr.String(), dockertest.Image(t))
	d.attached(name)
	setAndGet(t, id, "localhost", "6379", server.addr.Port())
	holdsOne := func() error {
		if namespaces, _ := held(t, d.cmd.Process.Pid); namespaces != 1 {
			return fmt.Errorf("it holds %d", namespaces)
		}
		return nil
	}
	poll(t, 10*time.Second, "the daemon holds the container's namespace", holdsOne)
	for namespaces := 2; namespaces <= 3; namespaces++ {
		dockertest.Docker(t, "restart", "-t", "0", id)
		seen := 0
		d.wait(fmt.Sprintf("%s attached %d times", name, namespaces), 20*time.Second, func(l line) bool {
			if l.str("msg") == "attached" && l.str("client") == name {
				seen++
			}
			return seen == namespaces
		})
		setAndGet(t, id, "localhost", "6379", server.addr.Port())
	}
	poll(t, 10*time.Second, "the daemon lets go of the old namespaces", holdsOne)
}
