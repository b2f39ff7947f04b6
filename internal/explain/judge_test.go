package explain

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/status"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// well is a container whose port is served.
func well() *Explanation {
	return &Explanation{
		Asked: Question{Container: "app", Port: 6379}, Taken: noon,
		Daemon:      Daemon{Answers: true, Runs: true, Ready: true, Modes: []string{"redirect"}},
		Engine:      Engine{Answers: true},
		Container:   Container{Name: "app", ID: "0123456789ab", Running: true, State: "running", Network: "bridge"},
		Attached:    &status.Attached{Mode: "redirect", Since: noon.Add(-time.Hour)},
		Declaration: &Declaration{Origin: "label connect.6379", Target: "docker://redis:6379", Meaning: "docker://redis:6379"},
		Ports:       []uint16{6379},
		Target:      &status.TargetView{Meaning: "docker://redis:6379", Choice: 1, Endpoints: make([]status.EndpointView, 2), Sources: []status.SourceView{{Source: "docker://redis:6379", Answered: noon}}},
		Endpoints:   []Endpoint{{EndpointView: status.EndpointView{Address: "10.0.0.2:6379"}, State: "used"}, {EndpointView: status.EndpointView{Address: "10.0.0.3:6379"}, State: "used"}},
		Inside:      Inside{Looked: true, Rules: true, Rule: &Rule{Listen: 61000, Served: true, Hooked: true, Counted: true, Packets: 3}},
	}
}

// unserved is one whose target has no endpoint.
func unserved(e *Explanation, of status.SourceView) {
	e.Endpoints = nil
	e.Target = &status.TargetView{Meaning: e.Declaration.Meaning, Sources: []status.SourceView{of}}
}

func failing(err, fix string) status.FailureView { return status.FailureView{Error: err, Hint: fix} }

// TestVerdicts: for each situation the cause, how bad it is, what the sentence names and what to do. The
// numbers are those of the situations that were set up for real (TestExplain of e2e).
func TestVerdicts(t *testing.T) {
	leftOut := func(why string, unhealthy bool) status.SourceView {
		return status.SourceView{Source: "docker://redis:6379", LeftOut: []status.LeftOutView{{Name: "redis-1", Why: why, Unhealthy: unhealthy}}}
	}
	failed := func(reason, err, fix string) *status.LastFailure {
		return &status.LastFailure{Reason: reason, Count: 2, Last: noon.Add(-3 * time.Second), FailureView: failing(err, fix)}
	}
	undeclared := func(e *Explanation) { e.Declaration, e.Target, e.Endpoints = nil, nil, nil }
	covered := map[string]bool{}
	for _, c := range []struct {
		name   string
		change func(*Explanation)
		state  State
		cause  string
		text   string
		fix    string
	}{
		{"nothing wrong", func(*Explanation) {}, OK, "ok", "goes to docker://redis:6379 (2 endpoints)", "--dial"},
		{"dialled", func(e *Explanation) { e.Dial = &Dial{OK: true} }, OK, "ok", "was served", ""},
		{"1 wrong label key", func(e *Explanation) {
			undeclared(e)
			e.NearMisses = []NearMiss{{Where: "label conect.6379", Why: "looks like a declaration but is none", Fix: "did you mean connect.6379?"}}
		}, Broken, "not_declared", "label conect.6379", "connect.6379"},
		{"2 wrong scheme", func(e *Explanation) { e.Declaration.FailureView = failing("unknown scheme", "did you mean docker://?") }, Broken, "bad_declaration", "label connect.6379 cannot be used: unknown scheme", "docker://"},
		{"3 target without port", func(e *Explanation) {
			e.Declaration.Target = "redis.example.com"
			unserved(e, status.SourceView{Source: "redis.example.com", FailureView: failing("no such name", "dig")})
		}, Broken, "source_fails", "no such name", "redis.example.com:PORT; dig"},
		{"5 Consul down", func(e *Explanation) {
			unserved(e, status.SourceView{Source: "consul-service://redis", FailureView: failing("connection refused", "start the agent")})
		}, Broken, "source_fails", "consul-service://redis fails: connection refused", "start the agent"},
		{"6 Consul denies", func(e *Explanation) {
			unserved(e, status.SourceView{Source: "consul-service://redis", FailureView: failing("403", "")})
		}, Broken, "source_fails", "403", "doctor"},
		{"7 unknown service", func(e *Explanation) {
			e.Target = &status.TargetView{FailureView: failing("no service redos", "did you mean redis?")}
			e.Endpoints = nil
		}, Broken, "no_endpoints", "no service redos", "redis"},
		{"8 all critical", func(e *Explanation) { unserved(e, leftOut("is critical", true)) }, Broken, "all_left_out", "redis-1 is critical", "health check"},
		{"11 refuses", func(e *Explanation) { e.Failure = failed("dial_failed", "connection refused", "start it") }, Broken, "dial_failed", "2 failed ones failed, 3s ago: connection refused", "start it"},
		{"11 refused before, and serves now", func(e *Explanation) {
			e.Failure, e.served = failed("dial_failed", "connection refused", "start it"), noon
		}, Doubtful, "dial_failed", "later ones were served", "start it"},
		{"11 refused long ago", func(e *Explanation) {
			e.Failure = failed("dial_failed", "connection refused", "start it")
			e.Failure.Last = noon.Add(-time.Hour)
		}, OK, "ok", "", ""},
		{"an operator has closed it", func(e *Explanation) {
			e.Failure = failed("operator_closed", "an operator has closed the connection", "")
		}, Doubtful, "operator_closed", "operator", ""},
		{"13 closes at once", func(e *Explanation) { e.Failure = failed("endpoint_gone", "closed it without a byte", "") }, Broken, "endpoint_gone", "closed it without a byte", "docs/troubleshooting.md"},
		{"nobody listens", func(e *Explanation) {
			for i := range e.Endpoints {
				e.Endpoints[i].State, e.Endpoints[i].Deaf = "ejected", "redis listens at port 6379 by 127.0.0.1:6379 alone, where no connection from outside of it comes"
			}
			e.Failure = failed("dial_failed", "connection refused", "start it")
		}, Broken, "nobody_listens", "10.0.0.2:6379 nobody listens: redis listens at port 6379 by 127.0.0.1:6379 alone", "0.0.0.0"},
		{"nobody listens, and what is dialled is silent", func(e *Explanation) {
			e.Failure = failed("dial_failed", "dial tcp 10.0.0.2:6379: context deadline exceeded", "")
			e.Endpoints = e.Endpoints[:1]
			e.Endpoints[0].Deaf = "in redis nobody listens at port 6379"
		}, Broken, "dial_failed", "context deadline exceeded", ""},
		{"nobody listens, and nobody has dialled", func(e *Explanation) {
			e.Endpoints = e.Endpoints[:1]
			e.Endpoints[0].Deaf = "in redis nobody listens at port 6379, but at 0.0.0.0:6380"
		}, Doubtful, "nobody_listens", "but at 0.0.0.0:6380", "write the port"},
		{"paused target", func(e *Explanation) { unserved(e, leftOut("is paused", false)) }, Broken, "all_left_out", "redis-1 is paused", "docker unpause redis-1"},
		{"stopped target", func(e *Explanation) { unserved(e, leftOut("is not running", false)) }, Broken, "all_left_out", "redis-1 is not running", "docker start redis-1"},
		{"asked of the one that serves", func(e *Explanation) {
			undeclared(e)
			e.Inside.Listens = []string{"0.0.0.0:6379"}
		}, Doubtful, "not_declared", "reaches itself", "container that dials"},
		{"14 ejected", func(e *Explanation) {
			e.Endpoints[1].State, e.Endpoints[1].Why, e.Endpoints[1].Until = "ejected", "connection refused", noon.Add(time.Minute)
		}, Doubtful, "ejected", "10.0.0.3:6379 is ejected: connection refused, until 12:01:00, as 1 of 2", "mend"},
		{"drained", func(e *Explanation) {
			e.Endpoints[1].State, e.Endpoints[1].Why = "drained", byOperator
		}, Doubtful, "drained", "10.0.0.3:6379 is drained by an operator, as 1 of 2", "endpoints restore 10.0.0.3:6379"},
		{"all drained", func(e *Explanation) {
			for i := range e.Endpoints {
				e.Endpoints[i].State, e.Endpoints[i].Why = "drained", byOperator
			}
		}, Broken, "drained", "there is no other", "endpoints restore"},
		{"ejected by an operator", func(e *Explanation) {
			e.Endpoints[0].State, e.Endpoints[0].Why, e.Endpoints[0].Until = "ejected", byOperator, noon.Add(time.Minute)
		}, Doubtful, "drained", "is ejected by an operator until 12:01:00", "endpoints restore"},
		{"14 all down", func(e *Explanation) { e.Endpoints[0].State, e.Endpoints[1].State = "down", "down" }, Broken, "ejected", "there is no other", "mend"},
		{"15 rules flushed", func(e *Explanation) { e.Inside.Rule = nil }, Broken, "no_rule", "flushed", "iptables -F"},
		{"15 the way to it flushed", func(e *Explanation) { e.Inside.Rule.Hooked = false }, Broken, "no_rule", "flushed", "iptables -F"},
		{"15 a rule that leads nowhere", func(e *Explanation) { e.Inside.Rule.Served = false }, Broken, "no_rule", "port 61000", "rules remove"},
		{"16 host network", func(e *Explanation) { e.Container.Network, e.Attached = "host", nil }, Broken, "host_network", "host's network", "ambassadord run 6379=TARGET"},
		{"17 no network, mode host", func(e *Explanation) {
			e.Container.Network, e.Daemon.Modes, e.Attached = "none", []string{"host"}, nil
		}, Broken, "not_served", "no network", "redirect"},
		{"18 serves the port itself", func(e *Explanation) { e.Inside.Listens = []string{"0.0.0.0:6379"} }, Doubtful, "app_listens", "listens at 0.0.0.0:6379", "another port"},
		{"19 UDP", func(e *Explanation) { e.Inside.UDP = 1 }, Doubtful, "udp", "1 socket", "TCP"},
		{"19 UDP, unconnected", func(e *Explanation) { e.Inside.UDPUnheard, e.Inside.Rule.Packets = 5, 0 }, Doubtful, "udp", "5 UDP datagrams", "TCP"},
		{"20 another port", func(e *Explanation) { undeclared(e); e.Ports = []uint16{80, 443} }, Broken, "not_declared", "only for 80, 443", "connect.6379=TARGET"},
		{"20 dials another one", func(e *Explanation) { e.Inside.TCPFailed, e.Inside.Rule.Packets = 5, 0 }, Doubtful, "other_port", "5 connections", "127.0.0.1"},
		{"21 matches nothing", func(e *Explanation) {
			unserved(e, status.SourceView{Source: "docker://redis:6379", Notes: []string{"no container is named redis"}})
		}, Broken, "no_endpoints", "no container is named redis", "resolve"},
		{"22 unhealthy", func(e *Explanation) { unserved(e, leftOut("is unhealthy", true)) }, Broken, "all_left_out", "unhealthy", "health check"},
		{"23 not reachable", func(e *Explanation) { unserved(e, leftOut("is on the macvlan network lan, where …", false)) }, Broken, "unreachable_network", "macvlan", "published=1"},
		{"24 limit", func(e *Explanation) {
			e.Limits = []Limit{{status.LimitView{Limit: "target docker://redis:6379", Most: 8, Open: 8, Waiting: 2}, []Holder{{"web", 7}, {"app", 1}}}}
		}, Broken, "over_limit", "8 of 8 connections are open, 2 wait; held by web (7), app (1)", "target-limit"},
		{"25 no daemon", func(e *Explanation) {
			e.Daemon, e.Attached = Daemon{FailureView: failing("no daemon serves /run/ambassadord.sock", "start it")}, nil
			e.Inside.Rule = nil
		}, Broken, "no_daemon", "no daemon runs", "ambassadord run"},
		{"25 one that does not answer", func(e *Explanation) { e.Daemon, e.Attached = Daemon{Runs: true}, nil }, Doubtful, "no_daemon", "does not say", ""},
		{"26 another has taken over", func(e *Explanation) {
			e.Daemon.Ready, e.Daemon.Missing = false, []Unseen{{What: "handover", FailureView: failing("another daemon has taken over", "")}}
		}, Broken, "not_ready", "taken over", "another daemon"},
		{"28 no engine", func(e *Explanation) {
			*e = Explanation{Asked: e.Asked, Taken: noon, Engine: Engine{FailureView: failing("permission denied", "run it as root")}}
		}, Broken, "engine_away", "permission denied", "root"},
		{"28 no engine, and a daemon", func(e *Explanation) { e.Engine = Engine{FailureView: failing("connection refused", "start it")} }, Doubtful, "engine_away", "the last it has heard", "start it"},
		{"29 not created anew", func(e *Explanation) {
			e.NearMisses = []NearMiss{{Where: "/srv/compose.yaml:4", Why: "declares another target than the container has: Compose applies labels when it creates a container", Fix: "docker compose up -d app"}}
		}, Doubtful, "not_recreated", "/srv/compose.yaml:4", "up -d app"},
		{"a mistaken option", func(e *Explanation) {
			e.NearMisses = []NearMiss{{Where: "label connect.6379.wiat", Why: "no such option", Fix: "did you mean wait?", Declared: true}}
		}, Doubtful, "mistake", "label connect.6379.wiat does not hold: no such option", "wait"},
		{"30 denied", func(e *Explanation) {
			e.Endpoints[0].State, e.Endpoints[1].State = "denied", "denied"
			e.Declaration.Denied = []status.Denied{{Endpoint: "10.0.0.2:6379", FailureView: failing("may not reach 10.0.0.2:6379: rule 2 (a.yml:7) says deny", "change rule 2")}}
		}, Broken, "denied", "rule 2 (a.yml:7)", "change rule 2"},
		{"30 denied in part", func(e *Explanation) {
			e.Declaration.Denied = []status.Denied{{FailureView: failing("may not reach 10.0.0.2:6379: rule 2 says deny", "change rule 2")}}
		}, Doubtful, "denied", "some endpoints", "change rule 2"},
		{"30 denied as declared", func(e *Explanation) {
			e.Declaration.FailureView = failing("container app may not reach 127.0.0.1:22: loopback", "allow it")
		}, Broken, "denied", "loopback", "allow it"},
		{"31 two projects", func(e *Explanation) {
			unserved(e, status.SourceView{Notes: []string{"redis is a service of more than one project: a, b"}, FailureView: failing("", "say which: docker://redis:6379?project=PROJECT")})
		}, Broken, "ambiguous", "more than one project: a, b", "project="},
		{"32 PROXY header too long", func(e *Explanation) { e.Failure = failed("endpoint_gone", "reset after the PROXY header", "216 bytes") }, Broken, "endpoint_gone", "PROXY header", "216 bytes"},
		{"34 a registry that hangs, with an answer from before", func(e *Explanation) { e.Target.Sources[0].FailureView = failing("timed out", "") }, Doubtful, "stale_answer", "its last answer holds: timed out", "doctor"},
		{"not running", func(e *Explanation) { e.Container.Running, e.Container.State = false, "not running" }, Broken, "not_running", "does not run", "docker start app"},
		{"paused", func(e *Explanation) { e.Container.State = "paused" }, Broken, "not_running", "paused", "unpause"},
		{"left behind", func(e *Explanation) { f := failing("web has ended", "docker start web"); e.Container.Left = &f }, Broken, "left_behind", "web has ended", "docker start web"},
		{"overruled", func(e *Explanation) { e.Declaration.Overruled = "web has the port" }, Broken, "overruled", "web has the port", "keep one"},
		{"gVisor", func(e *Explanation) { f := failing("runsc is gVisor", "mode host"); e.Container.OwnStack = &f }, Broken, "own_stack", "gVisor", "mode host"},
		{"gVisor in mode host", func(e *Explanation) {
			f := failing("runsc is gVisor", "mode host")
			e.Container.OwnStack, e.Daemon.Modes = &f, []string{"redirect", "host"}
		}, OK, "ok", "", ""},
		{"not attached", func(e *Explanation) {
			e.Attached, e.Inside.Rule = &status.Attached{FailureView: failing("cannot enter", "SYS_ADMIN")}, nil
		}, Broken, "not_attached", "cannot enter", "SYS_ADMIN"},
		{"the daemon has no mode", func(e *Explanation) { e.Daemon.Modes, e.Attached = nil, nil }, Broken, "not_served", "listeners alone", "--mode redirect"},
		{"the dial fails", func(e *Explanation) {
			e.Dial = &Dial{Address: "127.0.0.1:6379", FailureView: failing("refused", "look")}
		}, Broken, "dial_failed", "inside of the container fails: refused", "look"},
		{"the client is unhealthy", func(e *Explanation) { e.Container.Health = "unhealthy" }, Doubtful, "client_unhealthy", "itself is unhealthy", "docker inspect app"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := well()
			c.change(e)
			e.conclude()
			v := e.Verdict
			covered[v.Cause] = true
			if v.State != c.state || v.Cause != c.cause || !strings.Contains(v.Text, c.text) || !strings.Contains(v.Fix, c.fix) {
				t.Errorf("the verdict is %+v; want %s (%s), %q, %q", v, c.state, c.cause, c.text, c.fix)
			}
		})
	}
	page, err := os.ReadFile("../../docs/explain.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range situations {
		if s.cause != "last_failure" && !covered[s.cause] {
			t.Errorf("no case has the verdict %s", s.cause)
		}
		if s.cause != "last_failure" && !strings.Contains(string(page), "| `"+s.cause+"` |") {
			t.Errorf("docs/explain.md has no row for %s", s.cause)
		}
	}
}

// TestTheFirstThatIsBrokenIsTheVerdict: what comes after it on the way of a connection is not
// reached, and is told beside it, each cause once; what is doubtful comes last.
func TestTheFirstThatIsBrokenIsTheVerdict(t *testing.T) {
	e := well()
	e.Container.Health = "unhealthy"
	e.Inside.Listens = []string{"0.0.0.0:6379"}
	e.Failure = &status.LastFailure{Reason: "no_endpoints", Last: noon, Count: 1}
	unserved(e, status.SourceView{Source: "docker://redis:6379", Notes: []string{"nobody"}})
	e.conclude()
	var causes []string
	for _, f := range append([]Finding{e.Verdict}, e.Also...) {
		causes = append(causes, f.Cause)
	}
	if got, want := strings.Join(causes, " "), "no_endpoints app_listens client_unhealthy"; got != want {
		t.Errorf("found %s, want %s", got, want)
	}
}
