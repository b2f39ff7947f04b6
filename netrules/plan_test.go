package netrules

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const builtin = `-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
`

// dockerRules is what Docker puts into a container on a user network.
const dockerRules = builtin + `-N DOCKER_OUTPUT
-N DOCKER_POSTROUTING
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:40053
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:40054
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 40053 -j SNAT --to-source :53
`

const (
	ourJump  = "-A OUTPUT -m comment --comment ambassadord -j AMBASSADORD\n"
	ourDNS   = "-A AMBASSADORD -d 127.0.0.11/32 -m comment --comment \"ambassadord: leave the DNS of Docker alone\" -j RETURN\n"
	ourRedis = "-A AMBASSADORD -d 127.0.0.0/8 -p tcp -m tcp --dport 6379 --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment \"ambassadord: web\" -j REDIRECT --to-ports 15001\n"
	ourMark  = "-A AMBASSADORD -m comment --comment \"ambassadord: this nat table was made by us\"\n"
)

func parse(t *testing.T, text string) State {
	t.Helper()
	s, err := ParseState(IPv4, "nat", text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func commands(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		b.WriteString(strings.TrimPrefix(c.String(), "iptables -t nat ") + "\n")
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	fill := ourDNS + ourRedis
	hook := strings.Replace(ourJump, "-A", "-I", 1)
	unhook := strings.Replace(ourJump, "-A", "-D", 1)
	for _, tt := range []struct {
		name, current string
		missing       bool // the kernel has no such table
		want          string
	}{
		{name: "no table", current: builtin, missing: true, want: "-N AMBASSADORD\n" + ourMark + fill + hook},
		{name: "empty table", current: builtin, want: "-N AMBASSADORD\n" + fill + hook},
		{name: "beside Docker's", current: dockerRules, want: "-N AMBASSADORD\n" + fill + hook},
		{name: "there", current: dockerRules + "-N AMBASSADORD\n" + ourJump + fill},
		{name: "there with our table", current: builtin + "-N AMBASSADORD\n" + ourJump + ourMark + fill},
		{name: "chain without jump", current: builtin + "-N AMBASSADORD\n" + fill, want: hook},
		{name: "chain not filled", current: builtin + "-N AMBASSADORD\n", want: "-F AMBASSADORD\n" + fill + hook},
		{name: "jump to empty chain", current: builtin + "-N AMBASSADORD\n" + ourJump, want: "-F AMBASSADORD\n" + fill},
		{name: "rule missing", current: builtin + "-N AMBASSADORD\n" + ourJump + ourDNS, want: "-F AMBASSADORD\n" + fill},
		{name: "order wrong", current: builtin + "-N AMBASSADORD\n" + ourJump + ourRedis + ourDNS, want: "-F AMBASSADORD\n" + fill},
		{name: "drifted, the mark stays", current: builtin + "-N AMBASSADORD\n" + ourJump + ourMark + ourRedis,
			want: "-F AMBASSADORD\n" + ourMark + fill},
		{name: "jump three times", current: builtin + "-N AMBASSADORD\n" + ourJump + ourJump + ourJump + fill, want: unhook + unhook},
		{name: "jump from elsewhere", current: builtin + "-N AMBASSADORD\n-A PREROUTING -g AMBASSADORD\n" + ourJump + fill,
			want: "-D PREROUTING -g AMBASSADORD\n"},
		{name: "jump without comment", current: builtin + "-N AMBASSADORD\n-A OUTPUT -j AMBASSADORD\n" + fill,
			want: "-D OUTPUT -j AMBASSADORD\n" + hook},
		{name: "another chain of ours", current: builtin + "-N AMBASSADORD\n-N AMBASSADORD_HOST\n-A PREROUTING -j AMBASSADORD_HOST\n" +
			ourJump + fill},
		{name: "a dead daemon's chain in our hook", current: builtin + "-N AMBASSADORD\n-N AMBASSADORD_OLD\n-A OUTPUT -p tcp -j AMBASSADORD_OLD\n" +
			ourJump + fill, want: "-D OUTPUT -p tcp -j AMBASSADORD_OLD\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state := parse(t, tt.current)
			state.Exists = !tt.missing
			got := commands(Plan(Redirect(IPv4, 15001, []Port{{6379, "web"}}), state))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestPlanRemove(t *testing.T) {
	current := parse(t, dockerRules+`-N AMBASSADORD
-N AMBASSADORD_HOST
-A PREROUTING -j AMBASSADORD_HOST
-A OUTPUT -m comment --comment "-j AMBASSADORD" -j DOCKER_OUTPUT
-A DOCKER_OUTPUT -g AMBASSADORD
-A AMBASSADORD_HOST -j AMBASSADORD
`+ourJump+ourJump+ourMark+ourDNS)
	want := `-D OUTPUT -m comment --comment ambassadord -j AMBASSADORD
-D OUTPUT -m comment --comment ambassadord -j AMBASSADORD
-D DOCKER_OUTPUT -g AMBASSADORD
-D PREROUTING -j AMBASSADORD_HOST
-F AMBASSADORD
-F AMBASSADORD_HOST
-X AMBASSADORD
-X AMBASSADORD_HOST
`
	if diff := cmp.Diff(want, commands(PlanRemove(current))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	unhook, _, _ := strings.Cut(want, "-F ")
	if diff := cmp.Diff(unhook, commands(PlanUnhook(current))); diff != "" {
		t.Errorf("unhook: -want +got:\n%s", diff)
	}
	if !current.MadeTable() {
		t.Error("the mark went unseen")
	}
	if got := PlanRemove(parse(t, dockerRules)); len(got) > 0 {
		t.Errorf("nothing of ours is there, yet: %v", got)
	}
}

func TestParseState(t *testing.T) {
	s := parse(t, "# a warning\n-P OUTPUT ACCEPT\n-N C\n"+
		`-A C -m comment --comment "two words, \"quoted\", \\ and`+"\n"+`-A OUTPUT -j AMBASSADORD" -j RETURN`+"\n")
	want := State{Family: IPv4, Table: "nat", Exists: true, Chains: []ChainState{
		{Name: "OUTPUT", Policy: "ACCEPT"},
		{Name: "C", Rules: [][]string{{
			"-m", "comment", "--comment", "two words, \"quoted\", \\ and\n-A OUTPUT -j AMBASSADORD", "-j", "RETURN",
		}}},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// The same, as iptables-save -c prints it.
	s = parse(t, "# Generated\n*nat\n:OUTPUT ACCEPT [3:4]\n:C - [0:0]\n"+
		"[12:720] -A OUTPUT -j C\n[0:0] -A C -m comment --comment \"[1:2] -A C\" -j RETURN\nCOMMIT\n")
	want = State{Family: IPv4, Table: "nat", Exists: true, Chains: []ChainState{
		{Name: "OUTPUT", Policy: "ACCEPT", Rules: [][]string{{"-j", "C"}}, Counters: []Counters{{Packets: 12, Bytes: 720}}},
		{Name: "C", Rules: [][]string{{"-m", "comment", "--comment", "[1:2] -A C", "-j", "RETURN"}}, Counters: []Counters{{}}},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("saved: -want +got:\n%s", diff)
	}
	for text, exists := range map[string]bool{
		"*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n": false, ":OUTPUT DROP [0:0]": true, ":C - [0:0]": true,
		"": false, builtin: false, "-P OUTPUT DROP\n": true, dockerRules: true,
	} {
		if s := parse(t, text); s.Exists != exists {
			t.Errorf("Exists = %v for\n%s", s.Exists, text)
		}
	}
	for _, bad := range []string{
		"*mangle", ":OUTPUT", ": ACCEPT", ":A - [0:0]\n:A - [0:0]", "[1:1]", "[1:x] -A A -j B", ":A - [0:0]\n-A A -j B\n[1:1] -A A -j B",
		"-N", "-A NOWHERE -j RETURN", "-N A\n-N A", "what is this", "-N A\n-A A --comment \"open"} {
		if s, err := ParseState(IPv4, "nat", bad); err == nil {
			t.Errorf("ParseState(%q) = %+v, want an error", bad, s)
		}
	}
}

func TestRestoreScript(t *testing.T) {
	state := parse(t, builtin+"-N AMBASSADORD\n-A OUTPUT -j AMBASSADORD\n")
	got := RestoreScript("nat", Plan(Redirect(IPv4, 15001, []Port{{6379, "web"}}), state))
	want := "*nat\n:AMBASSADORD - [0:0]\n" + ourDNS + ourRedis +
		"-D OUTPUT -j AMBASSADORD\n" + strings.Replace(ourJump, "-A", "-I", 1) + "COMMIT\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPlanLeavesItsArgumentsAlone(t *testing.T) {
	c := Redirect(IPv4, 15001, []Port{{6379, "web"}})
	before := c.String()
	state := parse(t, builtin)
	Plan(c, state)
	if c.String() != before || !slices.EqualFunc(state.Chains, parse(t, builtin).Chains, func(a, b ChainState) bool {
		return a.Name == b.Name && len(a.Rules) == len(b.Rules)
	}) {
		t.Error("Plan changed what it was given")
	}
}

// TestNumberedJumps: a rule that is known by its number alone is deleted by that, and no
// script of iptables has it.
func TestNumberedJumps(t *testing.T) {
	state := State{Family: IPv4, Table: "nat", Exists: true, Chains: []ChainState{
		{Name: "OUTPUT", Policy: "ACCEPT", Rules: [][]string{{"-j", "AMBASSADORD"}, {"-j", "AMBASSADORD"}}, Handles: []uint64{7, 9}},
		{Name: "AMBASSADORD"},
	}}
	for name, changes := range map[string][]Change{
		"plan":   Plan(Redirect(IPv4, 15001, []Port{{6379, "web"}}), state),
		"unhook": PlanUnhook(state),
		"remove": PlanRemove(state),
	} {
		var handles []uint64
		for _, c := range changes {
			if c.Handle != 0 {
				handles = append(handles, c.Handle)
			}
		}
		if diff := cmp.Diff([]uint64{7, 9}, handles); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
		if script := RestoreScript("nat", changes); strings.Contains(script, "-D ") {
			t.Errorf("%s:\n%s", name, script)
		}
	}
}
