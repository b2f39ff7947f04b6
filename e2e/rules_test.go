//go:build integration

package e2e

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// client is a container that declares port 6379.
type client struct {
	name string
	ns   *netns.Namespace
	six  bool // has ::1
}

// clients starts one container of each kind of network, all with the same target.
func clients(t *testing.T, target string) []client {
	t.Helper()
	network := dockertest.Network(t)
	var all []client
	for _, c := range []struct {
		six     bool
		options []string
	}{
		{false, []string{"--sysctl", "net.ipv6.conf.lo.disable_ipv6=1"}},
		{true, []string{"--sysctl", "net.ipv6.conf.lo.disable_ipv6=0"}},
		{true, []string{"--sysctl", "net.ipv6.conf.lo.disable_ipv6=0", "--network", network}},
		{false, []string{"--sysctl", "net.ipv6.conf.lo.disable_ipv6=1", "--network", "none"}},
	} {
		name := dockertest.Name(t)
		options := append(c.options, "--name", name, "-l", "connect.6379="+target, dockertest.Image(t))
		all = append(all, client{name: name, ns: containerNamespace(t, dockertest.Run(t, options...)), six: c.six})
	}
	return all
}

// savedRules is what iptables-save and ip6tables-save print on the host and inside
// every client.
func savedRules(t *testing.T, all []client) string {
	t.Helper()
	var b strings.Builder
	save := func(where string, ns *netns.Namespace) {
		for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
			fmt.Fprintf(&b, "%s, %s:\n%s", where, f, filtertest.Save(t, ns, f))
		}
	}
	save("host", hostNamespace(t))
	for _, c := range all {
		save(c.name, c.ns)
	}
	return b.String()
}

// wantRules demands that every client has one jump and one rule for its port in
// each address family of its loopback, and the host none.
func wantRules(t *testing.T, all []client) {
	t.Helper()
	for _, c := range all {
		for f, has := range map[netrules.Family]bool{netrules.IPv4: true, netrules.IPv6: c.six} {
			want := 0
			if has {
				want = 1
			}
			text := filtertest.Save(t, c.ns, f)
			if n := len(jump.FindAllString(text, -1)); n != want {
				t.Errorf("%s, %s: %d jumps, want %d:\n%s", c.name, f, n, want, text)
			}
			if n := len(redirect.FindAllString(text, -1)); n != want {
				t.Errorf("%s, %s: %d rules for port 6379, want %d:\n%s", c.name, f, n, want, text)
			}
		}
	}
	for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
		if text := filtertest.Save(t, hostNamespace(t), f); strings.Contains(text, netrules.ChainPrefix) {
			t.Errorf("the host has rules of ours, want none:\n%s", text)
		}
	}
}

var (
	jump     = regexp.MustCompile(`(?m)^-A OUTPUT .*-j AMBASSADORD$`)
	redirect = regexp.MustCompile(`(?m)^-A AMBASSADORD .*--dport 6379 .*-j REDIRECT`)
)

// wantRestored demands that the rules are what they were.
func wantRestored(t *testing.T, before string, all []client) {
	t.Helper()
	if after := savedRules(t, all); after != before {
		t.Errorf("rules before:\n%s\nrules after, want the same:\n%s", before, after)
	}
}

// wantServed demands that every client gets through, over each loopback it has.
func wantServed(t *testing.T, all []client) {
	t.Helper()
	for _, c := range all {
		addresses := []string{"127.0.0.1:6379"}
		if c.six {
			addresses = append(addresses, "[::1]:6379")
		}
		for _, address := range addresses {
			conn, err := tryDialIn(c.ns, address)
			if err == nil {
				err = pingPong(conn)
				_ = conn.Close()
			}
			if err != nil {
				t.Errorf("%s to %s: %v, want an echo", c.name, address, err)
			}
		}
	}
}

// echo is a backend that sends back what it reads.
func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

// pingPong sends something and expects it back; conn stays open.
func pingPong(conn *net.TCPConn) error {
	const sent = "are you there?"
	if _, err := io.WriteString(conn, sent); err != nil {
		return err
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != sent {
		return fmt.Errorf("%q came back, want %q", got, sent)
	}
	return nil
}

// eventually waits for something outside of the daemon that it does not log.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !happened() {
		if time.Now().After(deadline) {
			t.Fatalf("within 10 s it did not happen that %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// attachedTo waits until d serves all clients.
func attachedTo(d *daemon, all []client) {
	d.t.Helper()
	for _, c := range all {
		d.attached(c.name)
	}
}

// ambassadord runs a command to its end and returns its exit status and output.
func ambassadord(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=50")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestRulesComeAndGoWithTheDaemon(t *testing.T) {
	all := clients(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
	before := savedRules(t, all)
	d := start(t, "run")
	attachedTo(d, all)
	wantRules(t, all)
	wantServed(t, all)
	d.stop()
	wantRestored(t, before, all)
}

func TestRulesAfterKill(t *testing.T) {
	all := clients(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
	before := savedRules(t, all)
	killed := start(t, "run")
	attachedTo(killed, all)
	killed.kill()
	wantRules(t, all) // nobody was left to remove them

	// The next daemon takes over what is there.
	second := start(t, "run")
	attachedTo(second, all)
	wantRules(t, all)
	wantServed(t, all)
	second.kill()

	// Nor is a daemon needed to clean up.
	status, stdout, stderr := ambassadord(t, "rules", "remove")
	if status != 0 || !strings.Contains(stdout, "6 chains removed") {
		t.Errorf("rules remove: exit %d, %q, %q; want 0 and 6 chains removed", status, stdout, stderr)
	}
	wantRestored(t, before, all)
	if status, stdout, stderr = ambassadord(t, "rules", "remove"); status != 0 || !strings.Contains(stdout, "0 chains removed") {
		t.Errorf("rules remove again: exit %d, %q, %q; want 0 and nothing removed", status, stdout, stderr)
	}
}

func TestKeepRules(t *testing.T) {
	all := clients(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
	before := savedRules(t, all)
	d := start(t, "run", "--keep-rules")
	attachedTo(d, all)
	d.stop()
	wantRules(t, all)
	// They lead nowhere now: a client must see that at once, and as a refusal.
	if _, err := tryDialIn(all[0].ns, "127.0.0.1:6379"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling without a daemon: %v, want that it is refused", err)
	}
	if status, stdout, stderr := ambassadord(t, "rules", "remove"); status != 0 {
		t.Errorf("rules remove: exit %d, %q, %q; want 0", status, stdout, stderr)
	}
	wantRestored(t, before, all)
}

func TestRulesCommandsBesideADaemon(t *testing.T) {
	all := clients(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
	before := savedRules(t, all)
	// changes returns how many changes the plan has for our clients and families.
	changes := func() (total, families int) {
		t.Helper()
		status, stdout, stderr := ambassadord(t, "rules", "plan")
		if status != 0 {
			t.Fatalf("rules plan: exit %d, %q", status, stderr)
		}
		for _, c := range all {
			for _, match := range regexp.MustCompile(`(?m)^# `+c.name+`, (\S+): (\d+) changes$`).FindAllStringSubmatch(stdout, -1) {
				n := 0
				if _, err := fmt.Sscan(match[2], &n); err != nil {
					t.Fatal(err)
				}
				if families++; n > 0 {
					total++
				}
			}
		}
		return total, families
	}
	if changed, families := changes(); changed != 6 || families != 6 {
		t.Errorf("without a daemon the plan changes %d of %d families, want 6 of 6", changed, families)
	}
	wantRestored(t, before, all) // a plan is only that

	d := start(t, "run", "--repair-interval", "1h")
	attachedTo(d, all)
	if changed, families := changes(); changed != 0 || families != 6 {
		t.Errorf("with a daemon the plan changes %d of %d families, want 0 of 6", changed, families)
	}

	const refusal = "another ambassadord serves this host already"
	for _, args := range [][]string{{"rules", "remove"}, {"run"}} {
		status, _, stderr := ambassadord(t, args...)
		if status != 1 || !strings.Contains(stderr, refusal) || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%s beside a daemon: exit %d, %q; want 1, %q and a hint", args, status, stderr, refusal)
		}
	}
	wantRules(t, all)
	wantServed(t, all) // by the first, undisturbed

	// A daemon that runs would put back at once what it is told has gone.
	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if status, stdout, stderr := ambassadord(t, "rules", "remove", "--force"); status != 0 || !strings.Contains(stdout, "6 chains removed") {
		t.Errorf("rules remove --force: exit %d, %q, %q; want 0 and 6 chains removed", status, stdout, stderr)
	}
	wantRestored(t, before, all)
	if err := d.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	d.stop()
	wantRestored(t, before, all)
}

// TestDrain holds a connection of every client over SIGTERM: it goes on although
// the rules that brought it have gone, and the daemon ends when it does.
func TestDrain(t *testing.T) {
	all := clients(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
	before := savedRules(t, all)
	d := start(t, "run", "--drain-timeout", "60s")
	attachedTo(d, all)
	var live []*net.TCPConn
	for _, c := range all {
		live = append(live, dialIn(t, c.ns, "127.0.0.1:6379"))
		if c.six {
			live = append(live, dialIn(t, c.ns, "[::1]:6379"))
		}
	}
	for _, conn := range live {
		if err := pingPong(conn); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.wait("stopping", 10*time.Second, func(l line) bool { return l.str("msg") == "stopping" })
	eventually(t, "every client is unhooked", func() bool { return !jump.MatchString(savedRules(t, all)) })
	for _, c := range all {
		eventually(t, c.name+" is refused", func() bool {
			conn, err := tryDialIn(c.ns, "127.0.0.1:6379")
			if err == nil {
				_ = conn.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	}
	for round := range 3 {
		for _, conn := range live {
			if err := pingPong(conn); err != nil {
				t.Errorf("round %d, after SIGTERM, %s: %v, want that it goes on", round, conn.RemoteAddr(), err)
			}
		}
	}
	for _, conn := range live {
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
			t.Errorf("the end of %s: %d bytes, %v; want a clean end", conn.RemoteAddr(), n, err)
		}
	}
	d.ended(5 * time.Second) // far from the drain timeout
	for _, c := range all {
		if l := d.connection(c.name, 6379, nil); l.str("reason") != "" {
			t.Errorf("the daemon logged %v, want no reason", l)
		}
	}
	wantRestored(t, before, all)
}

func TestDrainTimeout(t *testing.T) {
	ends := make(chan error, 8)
	all := clients(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", func(conn *net.TCPConn) {
		_, err := io.Copy(conn, conn)
		ends <- cmp.Or(err, io.EOF)
	}))
	before := savedRules(t, all)
	d := start(t, "run", "--drain-timeout", "1s")
	attachedTo(d, all)
	var live []*net.TCPConn
	for _, c := range all {
		conn := dialIn(t, c.ns, "127.0.0.1:6379")
		if err := pingPong(conn); err != nil {
			t.Fatal(err)
		}
		live = append(live, conn)
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for i, conn := range live {
		if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: a client that never ends saw %v, want a reset", all[i].name, err)
		}
		if err := <-ends; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a backend saw %v, want a reset", err)
		}
	}
	d.ended(10 * time.Second)
	for _, c := range all {
		if l := d.connection(c.name, 6379, nil); l.str("reason") != "drain_timeout" || l.str("hint") == "" {
			t.Errorf("the daemon logged %v, want the reason drain_timeout and a hint", l)
		}
	}
	wantRestored(t, before, all)
}
