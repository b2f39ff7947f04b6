//go:build integration

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// shownRules is what `rules show -o json` prints of one namespace and family.
type shownRules struct {
	Namespace string
	Family    string
	Rules     []struct {
		Rule, Kind, Client, ID, Declared, Why string
		Packets, Bytes                        uint64
		Port                                  int
		Listen                                int `json:"listen_port"`
	}
	Orphans []struct{ Chain, Reason string }
}

// show runs `rules show` and returns what is there of the clients, by name and
// family.
func show(t *testing.T, all []client) map[string]shownRules {
	t.Helper()
	status, stdout, stderr := ambassadord(t, "rules", "show", "-o", "json")
	if status != 0 {
		t.Fatalf("rules show: exit %d, %s", status, stderr)
	}
	var printed []shownRules
	if err := json.Unmarshal([]byte(stdout), &printed); err != nil {
		t.Fatalf("%v in\n%s", err, stdout)
	}
	found := map[string]shownRules{}
	for _, s := range printed {
		for _, c := range all {
			if len(s.Rules) > 0 && s.Rules[0].Client == c.name {
				found[c.name+" "+s.Family] = s
			}
		}
	}
	return found
}

func TestRulesShow(t *testing.T) {
	all := clients(t, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
	if found := show(t, all); len(found) > 0 {
		t.Errorf("before any daemon: %v", found)
	}
	d := start(t, "run", "--rules", "iptables")
	attachedTo(d, all)
	wantServed(t, all) // one connection for each loopback

	found := show(t, all)
	if len(found) != 6 {
		t.Fatalf("%d of 6 clients' families are shown: %v", len(found), found)
	}
	for key, s := range found {
		if len(s.Orphans) > 0 {
			t.Errorf("%s: a daemon runs, yet: %v", key, s.Orphans)
		}
		kinds := map[string]int{}
		for _, r := range s.Rules {
			kinds[r.Kind]++
			if r.Client == "" || len(r.ID) != 12 || r.Why == "" || r.Rule == "" {
				t.Errorf("%s: whose and why is this? %+v", key, r)
			}
			if r.Kind == "redirect" && (r.Port != 6379 || r.Packets != 1 || r.Bytes < 40 || r.Declared != "label connect.6379") {
				t.Errorf("%s, after one connection: %+v", key, r)
			}
		}
		if kinds["jump"] != 1 || kinds["redirect"] != 1 || kinds["unknown"] != 0 {
			t.Errorf("%s: kinds %v", key, kinds)
		}
	}

	d.kill()
	for key, s := range show(t, all) {
		if len(s.Orphans) != 1 || !strings.Contains(s.Orphans[0].Reason, "where nobody listens") {
			t.Errorf("%s: the daemon is dead, yet: %v", key, s.Orphans)
		}
	}
	_, text, _ := ambassadord(t, "rules", "show")
	for _, want := range []string{"; " + all[0].name + " (", ", label connect.6379\n", "orphan AMBASSADORD: it leads to port 61000, where nobody listens"} {
		if !strings.Contains(text, want) {
			t.Errorf("as text it lacks %q:\n%s", want, text)
		}
	}
	if status, _, stderr := ambassadord(t, "rules", "remove"); status != 0 {
		t.Errorf("rules remove: exit %d, %s", status, stderr)
	}
	if found := show(t, all); len(found) > 0 {
		t.Errorf("after the removal: %v", found)
	}
}

// TestRulesApply: another process listens inside the containers, and we only set
// the rules.
func TestRulesApply(t *testing.T) {
	all := clients(t, "127.0.0.1:1") // nobody of ours forwards to it
	before := savedRules(t, all)
	for _, c := range all {
		serveIn(t, c.ns, "127.0.0.1:15001", echo)
		if c.six {
			serveIn(t, c.ns, "[::1]:15001", echo)
		}
	}
	// changes returns how many lines a command adds and removes for the clients.
	changes := func(args ...string) (added, dropped int) {
		t.Helper()
		status, stdout, stderr := ambassadord(t, append(args, "-o", "json")...)
		if status != 0 {
			t.Fatalf("%v: exit %d, %s", args, status, stderr)
		}
		var printed []struct {
			Client string
			Lines  []struct{ Sign, Rule string }
		}
		if err := json.Unmarshal([]byte(stdout), &printed); err != nil {
			t.Fatalf("%v in\n%s", err, stdout)
		}
		for _, p := range printed {
			for _, c := range all {
				if p.Client != c.name {
					continue
				}
				for _, l := range p.Lines {
					switch l.Sign {
					case "+":
						added++
					case "-":
						dropped++
					}
				}
			}
		}
		return added, dropped
	}

	plan := []string{"rules", "plan", "--rules", "iptables", "--listen-port", "15001"}
	apply := []string{"rules", "apply", "--rules", "iptables", "--listen-port", "15001"}
	planned, _ := changes(plan...)
	if planned == 0 {
		t.Error("nothing is planned")
	}
	wantRestored(t, before, all) // a plan is only that
	if added, dropped := changes(apply...); added != planned || dropped != 0 {
		t.Errorf("apply adds %d lines and drops %d, %d were planned", added, dropped, planned)
	}
	wantRules(t, all)
	wantServed(t, all)
	for _, again := range [][]string{plan, apply} {
		if added, dropped := changes(again...); added+dropped > 0 {
			t.Errorf("%v once applied: %d lines to add, %d to drop", again, added, dropped)
		}
	}
	// Another port: one rule for each family goes, one comes.
	if added, dropped := changes("rules", "plan", "--rules", "iptables", "--listen-port", "15002"); added != 6 || dropped != 6 {
		t.Errorf("the plan for another port adds %d lines and drops %d, want 6 and 6", added, dropped)
	}
	if status, _, stderr := ambassadord(t, "rules", "remove"); status != 0 {
		t.Errorf("rules remove: exit %d, %s", status, stderr)
	}
	wantRestored(t, before, all)

	d := start(t, "run", "--rules", "iptables")
	attachedTo(d, all)
	status, _, stderr := ambassadord(t, apply...)
	if status != 1 || !strings.Contains(stderr, "another ambassadord serves this host already") {
		t.Errorf("apply beside a daemon: exit %d, %s", status, stderr)
	}
	if status, _, stderr := ambassadord(t, "rules", "plan", "--rules", "iptables", "--mode", "link"); status != 1 || !strings.Contains(stderr, "is a host's") {
		t.Errorf("mode link on a host: exit %d, %s", status, stderr)
	}
}

// TestRulesApplyLink sets the rules of mode link in the namespace of a container.
func TestRulesApplyLink(t *testing.T) {
	c := clients(t, "127.0.0.1:1")[1] // on the default bridge
	before := savedRules(t, []client{c})
	command := func(args ...string) string {
		t.Helper()
		var out string
		if err := c.ns.Do(func() error { // the process is started from inside
			status, stdout, stderr := ambassadord(t, args...)
			if out = stdout; status != 0 {
				return fmt.Errorf("%v: exit %d, %s", args, status, stderr)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	const rule = "-A AMBASSADORD ! -i lo -p tcp -m addrtype --dst-type LOCAL -m tcp ! --dport 15001 --tcp-flags FIN,SYN,RST,ACK SYN"
	if out := command("rules", "plan", "--rules", "iptables", "--mode", "link", "--listen-port", "15001"); !strings.Contains(out, "\n+ "+rule) {
		t.Errorf("the plan:\n%s", out)
	}
	wantRestored(t, before, []client{c})
	if out := command("rules", "apply", "--rules", "iptables", "--mode", "link", "--listen-port", "15001"); !strings.Contains(out, "\n+ "+rule) {
		t.Errorf("applied:\n%s", out)
	}
	if out := command("rules", "apply", "--rules", "iptables", "--mode", "link", "--listen-port", "15001"); !strings.Contains(out, "\n  "+rule) || strings.Contains(out, "\n+ ") {
		t.Errorf("applied twice:\n%s", out)
	}
	if status, _, stderr := ambassadord(t, "rules", "remove"); status != 0 {
		t.Errorf("rules remove: exit %d, %s", status, stderr)
	}
	wantRestored(t, before, []client{c})
}
