//go:build integration

package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// TestRulesHost plans, shows and removes all that mode host puts on a host.
func TestRulesHost(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend})
	attacker := dockertest.Run(t, forgeOption(t), dockertest.Image(t))
	addr := dockertest.Docker(t, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", c.name)
	before := hostState(t)
	plan := func() string {
		t.Helper()
		status, stdout, stderr := ambassadord(t, "rules", "plan", "--rules", "iptables", "--mode", "host")
		if status != 0 {
			t.Fatalf("rules plan: exit %d, %s", status, stderr)
		}
		return stdout
	}
	parts := []string{
		"address " + hostAddr4 + " on lo\n", "address " + hostAddr6 + " on lo\n",
		"-A PREROUTING -m comment --comment ambassadord -j AMBASSADORD_HOST\n", "-A AMBASSADORD_HOST -d " + hostAddr4 + "/32 ",
		"table bridge ambassadord\n", "guarded " + hostAddr4 + "\n", "bound " + addr + " to port ", ": " + c.name + " (", "drop connection to us ",
	}
	planned := plan()
	for _, part := range parts {
		if !strings.Contains(planned, part) {
			t.Errorf("the plan lacks %q:\n%s", part, planned)
		}
	}
	if strings.Contains(planned, "\n  ") || strings.Contains(planned, "\n- ") {
		t.Errorf("on a clean host something stays or goes:\n%s", planned)
	}
	wantHostState(t, before)

	d, _ := startHost(t, "--rules", "iptables")
	conn := dialIn(t, c.ns, hostAddr4+":6379")
	if err := pingPong(conn); err != nil {
		t.Fatal(err)
	}
	conn.Close() // or it would be carried on when the daemon is killed
	planned = plan()
	for _, part := range parts {
		if !strings.Contains(planned, part) {
			t.Errorf("beside a daemon the plan lacks %q:\n%s", part, planned)
		}
	}
	if strings.Contains(planned, "\n+ ") || strings.Contains(planned, "\n- ") {
		t.Errorf("the daemon's work is not what is planned:\n%s", planned)
	}

	forge(t, hostNamespace(t), attacker, c.name, dockerHost(t), hostAddr4+":6379", "20")
	wantShownHost(t, c.name, addr)

	d.kill()
	_, shown, _ := ambassadord(t, "rules", "show")
	if strings.Contains(shown, "bridge") || !strings.Contains(shown, "address "+hostAddr4+" on lo") || !strings.Contains(shown, "orphan AMBASSADORD_HOST: ") {
		t.Errorf("what a killed daemon leaves:\n%s", shown)
	}
	status, stdout, stderr := ambassadord(t, "rules", "remove")
	if status != 0 || !strings.Contains(stdout, "ipv4: removed the address "+hostAddr4+"\n") || !strings.Contains(stdout, "ipv6: removed the address "+hostAddr6+"\n") {
		t.Errorf("rules remove: exit %d, %s%s", status, stdout, stderr)
	}
	wantHostState(t, before)
}

// wantShownHost demands that rules show tells whose address the guard binds, and that
// it has dropped what was forged.
func wantShownHost(t *testing.T, name, addr string) {
	t.Helper()
	_, stdout, _ := ambassadord(t, "rules", "show", "-o", "json")
	var shown []shownRules
	if err := json.Unmarshal([]byte(stdout), &shown); err != nil {
		t.Fatal(err)
	}
	bound, dropped := false, uint64(0)
	for _, s := range shown {
		for _, r := range s.Rules {
			switch {
			case s.Family != "bridge":
			case r.Why == "":
				t.Errorf("why is this? %+v", r)
			case r.Kind == "binding":
				bound = bound || r.Client == name && len(r.ID) == 12 && strings.HasPrefix(r.Rule, "bound "+addr+" to port ")
			case r.Kind == "guard":
				dropped += r.Packets
			}
		}
	}
	if !bound || dropped < 20 {
		t.Errorf("%s bound: %v, %d packets dropped, want 20 or more:\n%s", name, bound, dropped, stdout)
	}
}

// TestRulesApplyHost: another process listens at an address of this host, and we only
// set the chain. What would not last is refused, and why.
func TestRulesApplyHost(t *testing.T) {
	c := declaring(t, map[int]string{6379: "127.0.0.1:1"}) // nobody of ours forwards to it
	before := hostState(t)
	const addr = "169.254.77.99"
	apply := []string{"rules", "apply", "--rules", "iptables", "--mode", "host", "--listen-port", "15001", "--host-addr", addr}
	trust := append(apply, "--trust-source-addresses")
	for _, refused := range []struct {
		args []string
		why  string
		hint string
	}{
		{apply, "lives with the process that made it", "--trust-source-addresses"},
		{trust, addr + " is not an address that this host keeps", "ip addr add " + addr + "/32 dev lo"},
	} {
		status, _, stderr := ambassadord(t, refused.args...)
		if status != 1 || !strings.Contains(stderr, refused.why) || !strings.Contains(stderr, refused.hint) {
			t.Errorf("%v: exit %d, %s; want %q and the hint %q", refused.args, status, stderr, refused.why, refused.hint)
		}
	}
	wantHostState(t, before)

	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ip("addr", "add", addr+"/32", "dev", "lo")
	t.Cleanup(func() { ip("addr", "del", addr+"/32", "dev", "lo") })
	kept := hostState(t)
	serveIn(t, hostNamespace(t), addr+":15001", echo)
	for _, sign := range []string{"+", " "} { // a second time there is nothing to do
		status, stdout, stderr := ambassadord(t, trust...)
		if status != 0 || !strings.Contains(stdout, "\n"+sign+" -A AMBASSADORD_HOST -d "+addr+"/32 ") {
			t.Errorf("rules apply: exit %d, %s%s", status, stdout, stderr)
		}
	}
	poll(t, 5*time.Second, "any port leads to the other process", func() error {
		conn, err := tryDialIn(c.ns, addr+":6379")
		if err != nil {
			return err
		}
		defer conn.Close()
		return pingPong(conn)
	})
	if status, stdout, stderr := ambassadord(t, "rules", "remove"); status != 0 || strings.Contains(stdout, "address") {
		t.Errorf("rules remove: exit %d, %s%s", status, stdout, stderr)
	}
	wantHostState(t, kept)
}
