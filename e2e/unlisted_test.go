//go:build integration

package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

// TestTableThatCannotBeListed has a container whose nat table holds a rule that iptables has
// no words for, so that it lists none of them. Ours are repaired and removed all the same, and
// log, rules show and doctor say what is the matter, whose it is and what to do.
func TestTableThatCannotBeListed(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend})
	// The container's own server, which nobody reaches while the port leads to us.
	serveIn(t, c.ns, "127.0.0.1:6379", func(conn *net.TCPConn) { fmt.Fprintln(conn, "its own") })
	served := func() error {
		if text := netlab.RunIn(t, c.ns, "nft", "list", "ruleset"); strings.Count(text, "jump AMBASSADORD") != 1 {
			return fmt.Errorf("there is\n%s", text)
		}
		return connects(c)
	}
	own := func(when string) {
		t.Helper()
		conn, err := tryDialIn(c.ns, "127.0.0.1:6379")
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		defer conn.Close()
		line := make([]byte, len("its own\n"))
		if n, err := conn.Read(line); err != nil || string(line) != "its own\n" {
			t.Errorf("%s: the container's own port says %q, %v", when, line[:n], err)
		}
		text := netlab.RunIn(t, c.ns, "nft", "list", "ruleset")
		// What its rule is in has been made by us, and says so.
		left := strings.ToLower(regexp.MustCompile(`comment "ambassadord: this [^"]*"`).ReplaceAllString(text, ""))
		if strings.Contains(left, "ambassadord") || !strings.Contains(text, "redirect to :1\n") {
			t.Errorf("%s: want its own rule and none of ours:\n%s", when, text)
		}
	}

	d := startPlain(t, "run", "--mode", "redirect", "--rules", "iptables", "--repair-interval", repairInterval.String())
	d.attached(c.name)
	poll(t, 10*time.Second, "a connection", served)
	netlab.RunIn(t, c.ns, "nft", "add", "rule", "ip", "nat", "OUTPUT", "tcp", "dport", "9999", "redirect", "to", ":1")
	l := d.wait("what cannot be listed", 20*time.Second, func(l line) bool { return l.str("msg") == "cannot list all rules of a container" })
	if l.str("client") != c.name || l.str("family") != "ipv4" || !strings.Contains(l.str("hint"), "nft list table ip nat") {
		t.Errorf("the log says %v", l)
	}
	for _, harm := range []string{"-F AMBASSADORD", "-D OUTPUT -m comment --comment ambassadord -j AMBASSADORD"} {
		netlab.RunIn(t, c.ns, "iptables", append([]string{"-t", "nat"}, strings.Fields(harm)...)...)
		poll(t, 10*time.Second, "a repair after "+harm, served)
	}
	status, stdout, stderr := ambassadord(t, "rules", "show")
	if status != 0 || !strings.Contains(stdout, "iptables cannot list the nat table") || !strings.Contains(stdout, c.name) || !strings.Contains(stdout, "nft list table ip nat") {
		t.Errorf("rules show: exit %d, %s\n%s", status, stderr, stdout)
	}
	diagnose(t, []string{binary}).want("stale-rules", "warn", c.name, "nft list ruleset")
	d.stop()
	own("after the daemon")

	// A daemon that starts there, is taken over from, and is killed.
	d = startPlain(t, "run", "--mode", "redirect")
	d.attached(c.name)
	poll(t, 10*time.Second, "a connection", served)
	next := startPlain(t, "run", "--mode", "redirect", "--takeover")
	next.attached(c.name)
	d.ended(20 * time.Second)
	poll(t, 10*time.Second, "a connection after a takeover", served)
	next.kill()
	if out, err := exec.Command(binary, "rules", "remove").CombinedOutput(); err != nil || !strings.Contains(string(out), "1 chain removed") {
		t.Errorf("rules remove: %v: %s", err, out)
	}
	own("after rules remove")
}
