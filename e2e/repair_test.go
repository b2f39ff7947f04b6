//go:build integration

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/netrules/iptables"
)

// repairInterval is what these tests ask for, and repaired is how soon after it a
// new connection must work again.
const (
	repairInterval = time.Second
	repaired       = repairInterval + time.Second
)

// TestRepair has somebody flush the nat table of a container. What is carried goes
// on, and what is new works again soon after the interval; where the kernel tells, long
// before it.
func TestRepair(t *testing.T) {
	rules, err := iptables.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	interval := map[string]string{"redirect": repairInterval.String(), "listen": repairInterval.String()}
	if rules.Told() {
		interval["redirect"] = "1h"
	}
	for _, mode := range []string{"redirect", "listen"} {
		t.Run(mode, func(t *testing.T) {
			backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
			d := start(t, "run", "--mode", mode, "--repair-interval", interval[mode])
			c := declaring(t, map[int]string{6379: backend})
			d.attached(c.name)
			live := dialIn(t, c.ns, "127.0.0.1:6379")
			if err := pingPong(live); err != nil {
				t.Fatal(err)
			}

			// The rules must have been found in order once before they are broken, or
			// it is the first look that mends them.
			poll(t, 10*time.Second, "a new connection", func() error { return connects(c) })
			flushed := time.Now()
			filtertest.Flush(t, c.ns, netrules.IPv4)
			if err := pingPong(live); err != nil {
				t.Errorf("the live connection right after the flush: %v", err)
			}
			poll(t, 10*time.Second, "a new connection", func() error { return connects(c) })
			if took := time.Since(flushed); took > repaired {
				t.Errorf("a new connection worked %s after the flush; want at most %s", took, repaired)
			}
			if err := pingPong(live); err != nil {
				t.Errorf("the live connection after the repair: %v", err)
			}
			if mode == "listen" {
				return
			}
			if text := natRules(t, c); strings.Count(text, "-j AMBASSADORD") != 1 {
				t.Errorf("the rules after the repair:\n%s\nwant one jump", text)
			}
		})
	}
}

// TestTwoFlushes has somebody flush the whole ruleset of a container, and later its nat table:
// what keeps connections tracked over the second comes back after the first.
func TestTwoFlushes(t *testing.T) {
	rules, err := iptables.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	interval := repairInterval.String()
	if rules.Told() {
		interval = "1h"
	}
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	// What keeps them tracked is needed with iptables alone.
	d := start(t, "run", "--mode", "redirect", "--rules", "iptables", "--repair-interval", interval)
	c := declaring(t, map[int]string{6379: backend})
	d.attached(c.name)
	for range 2 {
		poll(t, 10*time.Second, "a new connection", func() error { return connects(c) })
		netlab.RunIn(t, c.ns, "nft", "flush", "ruleset")
		poll(t, 10*time.Second, "rules and anchor", func() error {
			if text := netlab.RunIn(t, c.ns, "nft", "--debug=netlink", "list", "ruleset"); strings.Count(text, "jump AMBASSADORD") != 1 || strings.Count(text, "ct load state") != 1 {
				return fmt.Errorf("there are:\n%s", text)
			}
			return connects(c)
		})
		live := dialIn(t, c.ns, "127.0.0.1:6379")
		if err := pingPong(live); err != nil {
			t.Fatal(err)
		}
		netlab.RunIn(t, c.ns, "iptables", "-t", "nat", "-F")
		if err := pingPong(live); err != nil {
			t.Errorf("a live connection right after a flush of nat: %v", err)
		}
	}
	d.stop()
	if text := netlab.RunIn(t, c.ns, "nft", "list", "ruleset"); strings.Contains(strings.ToLower(text), "ambassadord") {
		t.Errorf("left behind:\n%s", text)
	}
}

// connects reports whether a new connection is served.
func connects(c client) error {
	_, err := echoed(c.ns, loopback(6379))
	return err
}

func natRules(t *testing.T, c client) string {
	t.Helper()
	return filtertest.Save(t, c.ns, netrules.IPv4)
}

// TestListenMode serves without a single rule, and leaves alone the port that the
// container serves itself.
func TestListenMode(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend, 8080: backend})
	own := serveIn(t, c.ns, "0.0.0.0:8080", echo)
	before := natRules(t, c)
	d := start(t, "run", "--mode", "listen")
	poll(t, 10*time.Second, "a new connection", func() error { return connects(c) })
	d.wait("the port that the container serves itself", 20*time.Second, func(l line) bool {
		return strings.Contains(l.str("error"), "listens on 127.0.0.1:8080 itself")
	})
	if _, err := echoed(c.ns, loopback(8080)); err != nil {
		t.Errorf("the container's own server at %s: %v", own, err)
	}
	if after := natRules(t, c); after != before {
		t.Errorf("mode listen changed the rules to\n%s", after)
	}
	d.stop()
	if _, err := tryDialIn(c.ns, "127.0.0.1:6379"); err == nil {
		t.Error("somebody still listens after the daemon has stopped")
	}
}

// TestNetworkConnect connects and disconnects networks under live connections.
func TestNetworkConnect(t *testing.T) {
	network := dockertest.Network(t) // made first, so that it is removed last
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	d := start(t, "run", "--repair-interval", repairInterval.String())
	c := declaring(t, map[int]string{6379: backend})
	d.attached(c.name)
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"connect", "disconnect"} {
		dockertest.Docker(t, "network", step, network, c.name)
		if err := pingPong(live); err != nil {
			t.Errorf("the live connection after network %s: %v", step, err)
		}
		if err := connects(c); err != nil {
			t.Errorf("a new connection after network %s: %v", step, err)
		}
	}
	// The engine's DNS rules came and went in the same table as ours.
	dockertest.Docker(t, "network", "connect", network, c.name)
	dockertest.Docker(t, "network", "disconnect", "bridge", c.name)
	if err := pingPong(live); err != nil {
		t.Errorf("the live connection after the only other network was left: %v", err)
	}
}

// TestHostRepairedOnEvents does not wait for the interval: the kernel tells of
// changes in the host's own namespace.
func TestHostRepairedOnEvents(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend})
	d, _ := startHost(t, "--repair-interval", "1h")
	serves := func() error {
		conn, err := dialWithin(c.ns, hostAddr4+":6379", impatient)
		if err != nil {
			return err
		}
		defer conn.Close()
		// One begun while the host did not have the address has left by the default route,
		// and whoever answers there is nobody to wait for.
		if err := conn.SetDeadline(time.Now().Add(repaired / 4)); err != nil {
			return err
		}
		return pingPong(conn)
	}
	poll(t, 10*time.Second, "a new connection", serves)
	host := hostNamespace(t)
	for harm, do := range map[string]func(){
		"the chain is emptied": func() { filtertest.FlushChain(t, host, netrules.IPv4, netrules.HostChain) },
		"the jump is deleted":  func() { filtertest.Unhook(t, host, netrules.IPv4, "PREROUTING", netrules.HostChain) },
		"the address is deleted": func() {
			netlab.RunIn(t, host, "ip", "addr", "del", hostAddr4+"/32", "dev", "lo")
		},
	} {
		do()
		harmed := time.Now()
		poll(t, 10*time.Second, "a new connection", serves)
		if took := time.Since(harmed); took > repaired {
			t.Errorf("a new connection worked %s after %s; want at most %s", took, harm, repaired)
		}
	}
	d.stop()
}
