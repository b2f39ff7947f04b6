//go:build integration

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// without runs ambassadord where there is no program at all.
func without(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"PATH=" + t.TempDir(), "GORACE=atexit_sleep_ms=50"}
	var out, complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), complaints.String()
}

// startWithout is start where there is no program at all.
func startWithout(t *testing.T, args ...string) *daemon {
	t.Helper()
	return startWith(t, []string{"PATH=" + t.TempDir()}, args...)
}

// wholeRuleSet is what nft lists in a namespace.
func wholeRuleSet(t *testing.T, ns *netns.Namespace) string {
	t.Helper()
	return netlab.RunIn(t, ns, "nft", "list", "ruleset")
}

// TestWithoutIptables has daemons where no iptables program is installed, in mode redirect: what
// containers declare is served over each loopback, rules that somebody flushes come back while live connections go on, the commands tell of it, and at
// the end nothing is left.
func TestWithoutIptables(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	all := clients(t, backend)
	before := map[string]string{}
	for _, c := range all {
		before[c.name] = wholeRuleSet(t, c.ns)
	}
	d := startWithout(t, "run", "--mode", "redirect", "--repair-interval", "1h")
	var kept *net.TCPConn
	for _, c := range all {
		d.attached(c.name)
		dials := []string{"127.0.0.1:6379"}
		if c.six {
			dials = append(dials, "[::1]:6379")
		}
		for _, address := range dials {
			live := dialIn(t, c.ns, address)
			if err := pingPong(live); err != nil {
				t.Fatalf("%s, %s: %v", c.name, address, err)
			}
			netlab.RunIn(t, c.ns, "iptables", "-t", "nat", "-F") // which are not ours
			if err := pingPong(live); err != nil {
				t.Errorf("%s, %s: the live connection after a flush of nat: %v", c.name, address, err)
			}
			filtertest.FlushChain(t, c.ns, netrules.IPv4, netrules.ChainPrefix)
			poll(t, 10*time.Second, "a new connection after a flush of our chain", func() error { return connects(c) })
			netlab.RunIn(t, c.ns, "nft", "delete", "table", "ip", "ambassadord")
			poll(t, 10*time.Second, "a new connection without our table", func() error { return connects(c) })
			if err := pingPong(live); err != nil {
				t.Errorf("%s, %s: the live connection after all that: %v", c.name, address, err)
			}
			if kept == nil { // which is long there when the daemon is killed
				kept = live
				continue
			}
			live.Close()
		}
		if text := wholeRuleSet(t, c.ns); strings.Count(text, "jump AMBASSADORD") != map[bool]int{false: 1, true: 2}[c.six] || strings.Contains(text, "table inet ambassadord {") || strings.Contains(text, "ambassadord-advance") {
			t.Errorf("%s: want our own tables alone:\n%s", c.name, text)
		}
	}

	status, stdout, stderr := without(t, "rules", "show")
	if status != 0 || !strings.Contains(stdout, "ipv4 (nft)") || !strings.Contains(stdout, "add rule ip ambassadord AMBASSADORD ip daddr 127.0.0.0/8 tcp dport 6379 ") ||
		!strings.Contains(stdout, "port 6379 is declared; who dials it") || !strings.Contains(stdout, "label connect.6379") || strings.Contains(stdout, "orphan") {
		t.Errorf("rules show: %d, %s\n%s", status, stderr, stdout)
	}
	status, stdout, stderr = without(t, "rules", "plan")
	if status != 0 || strings.Count(stdout, ": 0 changes\n") != 6 {
		t.Errorf("rules plan: %d, %s\n%s", status, stderr, stdout)
	}
	_, stdout, stderr = without(t, "doctor")
	for _, want := range []string{"rules            by netlink", "a connection to a declared port was redirected", "rules of ours in 4 of"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("doctor does not say %q: %s\n%s", want, stderr, stdout)
		}
	}
	if !strings.Contains(stdout, "no iptables program is installed") && !strings.Contains(stdout, "as the engine's own rules") {
		t.Errorf("doctor does not say why:\n%s", stdout)
	}
	if status, stdout, _ := without(t, "rules", "remove"); status == 0 {
		t.Errorf("rules remove beside a daemon: %s", stdout)
	}

	// Killed, its rules stay until somebody removes them.
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	poll(t, 10*time.Second, "the daemon is gone", func() error {
		if text := wholeRuleSet(t, all[0].ns); strings.Contains(text, "ambassadord-pin") || !strings.Contains(text, "jump AMBASSADORD") {
			return fmt.Errorf("there is:\n%s", text)
		}
		return nil
	})
	if err := pingPong(kept); err != nil {
		t.Errorf("the live connection after kill -9: %v", err)
	}
	kept.Close()
	d.kill() // and await who has carried it
	d = startWithout(t, "run", "--mode", "redirect")
	for _, c := range all {
		d.attached(c.name)
		if err := connects(c); err != nil {
			t.Errorf("%s, after kill -9 and another start: %v", c.name, err)
		}
	}
	d.kill()
	poll(t, 20*time.Second, "rules remove", func() error {
		status, stdout, stderr := without(t, "rules", "remove")
		if status != 0 || strings.Contains(stdout, "left alone") {
			return fmt.Errorf("%d, %s%s", status, stdout, stderr)
		}
		return nil
	})
	for _, c := range all {
		if after := wholeRuleSet(t, c.ns); strings.Contains(strings.ToLower(after), "ambassadord") {
			t.Errorf("%s: before:\n%s\nafter:\n%s", c.name, before[c.name], after)
		}
	}

	d = startWithout(t, "run", "--mode", "redirect")
	for _, c := range all {
		d.attached(c.name)
	}
	d.stop()
	for _, c := range all {
		if after := wholeRuleSet(t, c.ns); strings.Contains(strings.ToLower(after), "ambassadord") {
			t.Errorf("%s: before:\n%s\nafter:\n%s", c.name, before[c.name], after)
		}
	}
}

// TestHostWithoutIptables is mode host with no iptables program.
func TestHostWithoutIptables(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	before := hostState(t)
	c := declaring(t, map[int]string{6379: backend})
	d := startWithout(t, "run", "--mode", "host", "--repair-interval", "1h")
	serves := func() error {
		conn, err := dialWithin(c.ns, hostAddr4+":6379", impatient)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(impatient)); err != nil {
			return err
		}
		return pingPong(conn)
	}
	poll(t, 10*time.Second, "a connection", serves)
	host := hostNamespace(t)
	filtertest.FlushChain(t, host, netrules.IPv4, netrules.HostChain)
	poll(t, 10*time.Second, "a connection after a flush", serves)
	filtertest.Unhook(t, host, netrules.IPv4, "PREROUTING", netrules.HostChain)
	poll(t, 10*time.Second, "a connection after the jump was deleted", serves)
	if status, stdout, stderr := without(t, "rules", "show"); status != 0 || !strings.Contains(stdout, "add rule ip ambassadord AMBASSADORD_HOST ip daddr "+hostAddr4+" ") || strings.Contains(stdout, "orphan") {
		t.Errorf("rules show: %d, %s\n%s", status, stderr, stdout)
	}
	d.stop()
	wantHostState(t, before)
}

// TestLinkWithoutIptables is mode link with no iptables program.
func TestLinkWithoutIptables(t *testing.T) {
	lab, peer := netlab.New(t), netlab.New(t)
	netlab.Connect(t, lab, netip.MustParsePrefix("10.77.0.1/24"), peer, netip.MustParsePrefix("10.77.0.2/24"))
	before := wholeRuleSet(t, lab.NS())
	programs := t.TempDir() // those that start it
	for _, name := range []string{"sh", "mount"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(programs, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d := startIn(t, lab.NS(), nil, []string{"PATH=" + programs}, "run", "--mode", "link", "--trust-source-addresses", "--run-dir", filepath.Join(t.TempDir(), "run"))
	arrives := func() error {
		conn, err := dialWithin(peer.NS(), "10.77.0.1:6379", impatient)
		if err == nil {
			conn.Close()
		}
		return err
	}
	poll(t, 10*time.Second, "a connection to any port arrives", arrives)
	filtertest.FlushChain(t, lab.NS(), netrules.IPv4, netrules.ChainPrefix)
	poll(t, 10*time.Second, "a connection after a flush", arrives)
	d.stop()
	if after := wholeRuleSet(t, lab.NS()); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}

// TestChangingRulesOver: a daemon that sets its rules by netlink takes over from one that sets
// them by iptables, as older versions do, and the other way round. Live connections go on, and
// the rules are there by one way alone, also those that were killed with their daemon.
func TestChangingRulesOver(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend})
	saved := func() (tables, own string) {
		return netlab.Save(t, c.ns, netrules.IPv4), filtertest.Own(t, c.ns, netrules.IPv4)
	}
	by := func(when, rules string) {
		t.Helper()
		poll(t, 10*time.Second, when+" rules by "+rules+" alone", func() error {
			tables, own := saved()
			if rules == "nft" {
				tables, own = own, tables
			}
			if strings.Count(tables, "-j AMBASSADORD") != 1 || strings.Contains(own, "AMBASSADORD") {
				return fmt.Errorf("there is:\n%s\nand:\n%s", tables, own)
			}
			return connects(c)
		})
	}
	var live []*net.TCPConn
	talk := func(when string) {
		t.Helper()
		live = append(live, dialIn(t, c.ns, "127.0.0.1:6379"))
		for i, conn := range live {
			if err := pingPong(conn); err != nil {
				t.Errorf("%s: the live connection number %d: %v", when, i+1, err)
			}
		}
	}
	d := startPlain(t, "run", "--mode", "redirect", "--rules", "iptables")
	d.attached(c.name)
	by("at first", "iptables")
	talk("at first")
	for _, rules := range []string{"nft", "iptables", "nft"} {
		next := startPlain(t, "run", "--mode", "redirect", "--rules", rules, "--takeover")
		next.attached(c.name)
		by("after a takeover,", rules)
		talk("after a takeover to " + rules)
		d = next
	}
	for _, conn := range live { // or those who carry them would go on to
		conn.Close()
	}
	d.kill()
	d = startPlain(t, "run", "--mode", "redirect", "--rules", "iptables")
	d.attached(c.name)
	by("after kill -9,", "iptables")
	d.stop()
	poll(t, 20*time.Second, "nothing is left", func() error {
		if tables, own := saved(); strings.Contains(tables+own, "AMBASSADORD") {
			return fmt.Errorf("there is:\n%s\nand:\n%s", tables, own)
		}
		return nil
	})
}
