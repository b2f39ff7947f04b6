package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

const (
	// recent is how old a failure may be to say something of now.
	recent = 10 * time.Minute
	// mostAlso is how many findings there are beside the verdict.
	mostAlso = 5
)

// situation is one thing that may be wrong: it says what the facts mean, or nothing.
type situation struct {
	cause string
	// means says what is wrong, and what to do; no finding has State "".
	means func(e *Explanation) (s State, text, fix string)
}

// situations are all that are known, in the order in which they keep a connection from going on: of
// those that are broken the first is the verdict, for what comes after it is not reached.
var situations = []situation{
	{"engine_away", engineAway},
	{"not_running", notRunning},
	{"left_behind", leftBehind},
	{"host_network", hostNetwork},
	{"denied", deniedAtAll},
	{"bad_declaration", badDeclaration},
	{"overruled", overruled},
	{"not_declared", notDeclared},
	{"no_daemon", noDaemon},
	{"not_ready", notReady},
	{"own_stack", ownStack},
	{"not_served", notServed},
	{"not_attached", notAttached},
	{"no_rule", noRule},
	{"denied", deniedEndpoints},
	{"over_limit", overLimit},
	{"ambiguous", ambiguous},
	{"unreachable_network", unreachable},
	{"all_left_out", allLeftOut},
	{"source_fails", sourceFails},
	{"no_endpoints", noEndpoints},
	{"drained", drained},
	{"nobody_listens", nobodyListens},
	{"ejected", ejected},
	{"dial_failed", dialFailed},
	{"last_failure", lastFailure},
	{"app_listens", appListens},
	{"not_recreated", notRecreated},
	{"mistake", mistake},
	{"udp", udp},
	{"other_port", otherPort},
	{"stale_answer", staleAnswer},
	{"client_unhealthy", clientUnhealthy},
}

// conclude says what the facts mean.
func (e *Explanation) conclude() {
	e.Ports, e.NearMisses, e.Endpoints = list(e.Ports), list(e.NearMisses), list(e.Endpoints)
	e.Limits, e.Unseen = list(e.Limits), list(e.Unseen)
	all := judge(e)
	e.Verdict, e.Also = all[0], list(all[1:min(len(all), mostAlso+1)])
}

// list is all, as a list that is never null in JSON.
func list[T any](all []T) []T { return append([]T{}, all...) }

// judge is what facts mean, the worst first; where nothing is wrong it says so.
func judge(e *Explanation) []Finding {
	var all []Finding
	for _, s := range situations {
		state, text, fix := s.means(e)
		if state == "" {
			continue
		}
		cause := s.cause
		if cause == "last_failure" { // the reason says more
			cause = e.Failure.Reason
		}
		all = append(all, Finding{State: state, Cause: cause, Text: text, Fix: fix})
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(severity(a.State), severity(b.State)) })
	told := map[string]bool{} // of each cause the worst: the last failure is often what the target's state says, too
	all = slices.DeleteFunc(all, func(f Finding) bool {
		defer func() { told[f.Cause] = true }()
		return told[f.Cause]
	})
	if len(all) == 0 {
		all = append(all, wellDone(e))
	}
	return all
}

func severity(s State) int { return slices.Index([]State{Broken, Doubtful, OK}, s) }

// wellDone says what is so where nothing is wrong.
func wellDone(e *Explanation) Finding {
	text := fmt.Sprintf("what %s dials at localhost:%d goes to %s", e.Container.Name, e.Asked.Port, e.Declaration.Target)
	if n := len(used(e)); n > 0 {
		text += " (" + shorten.Count(n, "endpoint", "endpoints") + ")"
	}
	if e.Dial != nil && e.Dial.OK {
		text += "; a connection from inside of the container was served"
	}
	fix := ""
	if len(e.Unseen) > 0 {
		fix = "not all could be looked at: " + e.Unseen[0].Hint
	} else if e.Dial == nil {
		fix = "if it fails all the same, let this command dial: add --dial"
	}
	return Finding{OK, "ok", text, fix}
}

func used(e *Explanation) (all []Endpoint) {
	for _, one := range e.Endpoints {
		if one.State == "used" {
			all = append(all, one)
		}
	}
	return all
}

func because(text string, f status.FailureView) string {
	if f.Error == "" {
		return text
	}
	return text + ": " + short(f.Error)
}

func engineAway(e *Explanation) (State, string, string) {
	switch {
	case e.Engine.Answers:
		return "", "", ""
	case e.Daemon.Answers:
		return Doubtful, because("the engine does not answer, so that what the daemon knows is the last it has heard", e.Engine.FailureView), e.Engine.Hint
	}
	return Broken, because("neither a daemon nor the engine answers", e.Engine.FailureView), e.Engine.Hint
}

func notRunning(e *Explanation) (State, string, string) {
	switch {
	case !e.Container.Running && e.Engine.Answers:
		return Broken, e.Container.Name + " does not run", "docker logs " + e.Container.Name + " says why it ended; docker start " + e.Container.Name
	case e.Container.State == "paused":
		return Broken, e.Container.Name + " is paused", "docker unpause " + e.Container.Name
	}
	return "", "", ""
}

func leftBehind(e *Explanation) (State, string, string) {
	if l := e.Container.Left; l != nil {
		return Broken, because(e.Container.Name+" is in a network namespace that is nobody's", *l), l.Hint
	}
	return "", "", ""
}

func hostNetwork(e *Explanation) (State, string, string) {
	if e.Container.Network != "host" {
		return "", "", ""
	}
	return Broken, e.Container.Name + " is on the host's network, where nothing is redirected: what it dials at localhost is the host's own",
		fmt.Sprintf("give it a network of its own (leave out --network host), or let the host listen: ambassadord run %d=TARGET", e.Asked.Port)
}

// isDenial reports whether an error of a declaration is the policy's.
func isDenial(text string) bool { return strings.Contains(text, " may not reach ") }

func deniedAtAll(e *Explanation) (State, string, string) {
	if d := e.Declaration; d != nil && isDenial(d.Error) {
		return Broken, "the policy denies it: " + d.Error, d.Hint
	}
	return "", "", ""
}

func badDeclaration(e *Explanation) (State, string, string) {
	if d := e.Declaration; d != nil && d.Error != "" && !isDenial(d.Error) {
		return Broken, fmt.Sprintf("%s cannot be used: %s", d.Origin, d.Error), cmp.Or(d.Hint, "the forms of a target: ambassadord run --help")
	}
	return "", "", ""
}

func overruled(e *Explanation) (State, string, string) {
	if d := e.Declaration; d != nil && d.Overruled != "" {
		return Broken, "another container of its network namespace has the port: " + d.Overruled, "keep one of the two declarations"
	}
	return "", "", ""
}

func notDeclared(e *Explanation) (State, string, string) {
	if e.Declaration != nil || e.Container.ID == "" {
		return "", "", ""
	}
	text := fmt.Sprintf("%s declares nothing for port %d", e.Container.Name, e.Asked.Port)
	fix := fmt.Sprintf("give it the label connect.%d=TARGET, and create it anew", e.Asked.Port)
	switch {
	case len(e.NearMisses) > 0:
		near := e.NearMisses[0]
		text += fmt.Sprintf(", but %s: %s", near.Where, near.Why)
		fix = cmp.Or(near.Fix, fix)
	case len(e.Inside.Listens) > 0:
		return Doubtful, fmt.Sprintf("%s, and listens there itself, at %s: what it dials there reaches itself", text, strings.Join(e.Inside.Listens, ", ")),
			"ask of the container that dials, not of the one that serves; if it is to reach another one: " + fix
	case len(e.Ports) > 0:
		text += ", only for " + ports(e.Ports)
	}
	return Broken, text, fix
}

// ports lists some ports.
func ports(all []uint16) string {
	const most = 8
	texts := make([]string, 0, most+1)
	for _, p := range all[:min(len(all), most)] {
		texts = append(texts, fmt.Sprint(p))
	}
	if more := len(all) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}

func noDaemon(e *Explanation) (State, string, string) {
	d := &e.Daemon
	switch {
	case d.Answers:
		return "", "", ""
	case d.Runs:
		return Doubtful, because("a daemon runs and does not say what it knows", d.FailureView), d.Hint
	case e.Inside.Rule != nil && e.Inside.Rule.Served:
		return Doubtful, because("somebody listens where the port's rule leads, and no daemon answers here", d.FailureView), d.Hint
	}
	text := "no daemon runs, so that nobody serves the port"
	if e.Inside.Rule != nil {
		text += "; the rule that is left of one leads to where nobody listens"
	}
	return Broken, because(text, d.FailureView), "start it: ambassadord run" + otherAdmin
}

const otherAdmin = "; where it has another --admin, give the same here; where it runs in a container: docker exec CONTAINER ambassadord explain …"

func notReady(e *Explanation) (State, string, string) {
	d := &e.Daemon
	if !d.Answers || d.Ready {
		return "", "", ""
	}
	if len(d.Missing) == 0 {
		return Broken, because("the daemon is not ready", d.FailureView), cmp.Or(d.Hint, "look at its log")
	}
	m := d.Missing[0]
	text := fmt.Sprintf("the daemon is not ready (%s): %s", m.What, m.Error)
	if m.What == "engine" { // what it has heard before holds
		return Doubtful, text, m.Hint
	}
	return Broken, text, cmp.Or(m.Hint, "wait for it, or look at its log: another daemon may have taken over")
}

// rowsOf are the modes that the daemon runs in.
func rowsOf(e *Explanation) (all []mode.Row) {
	for _, name := range e.Daemon.Modes {
		all = append(all, mode.Of(config.Mode(name)))
	}
	return all
}

func enters(r mode.Row) bool { return r.Enters }

func ownStack(e *Explanation) (State, string, string) {
	own := e.Container.OwnStack
	if own == nil || e.Daemon.Answers && slices.ContainsFunc(rowsOf(e), func(r mode.Row) bool { return !r.Enters }) {
		return "", "", ""
	}
	return Broken, because("what it dials at localhost does not get here", *own), own.Hint
}

func notServed(e *Explanation) (State, string, string) {
	switch rows := rowsOf(e); {
	case !e.Daemon.Answers || e.Declaration == nil:
		return "", "", ""
	case len(rows) == 0:
		return Broken, "the daemon serves listeners alone, and no containers", "run it with --mode redirect"
	case e.Container.Network == "none" && !slices.ContainsFunc(rows, enters):
		return Broken, fmt.Sprintf("%s has no network, and mode %s knows containers by their addresses", e.Container.Name, strings.Join(e.Daemon.Modes, ", ")), "give it a network, or run the daemon with --mode redirect"
	}
	return "", "", ""
}

func notAttached(e *Explanation) (State, string, string) {
	if !e.Daemon.Answers || !slices.ContainsFunc(rowsOf(e), enters) || e.Declaration == nil || e.Container.Network == "host" || !e.Container.Running {
		return "", "", ""
	}
	switch at := e.Attached; {
	case at == nil && e.Inside.Rule != nil && e.Inside.Rule.Served: // what serves it does not say so
		return "", "", ""
	case at == nil:
		return Broken, "the daemon has not entered the container's network namespace yet", "look again in a moment; then at the daemon's log"
	case at.Since.IsZero():
		return Broken, because("the daemon cannot attach to the container", at.FailureView), cmp.Or(at.Hint, "see what it lacks: ambassadord doctor")
	case at.Error != "":
		return Broken, because("the daemon cannot keep its sockets and rules in the container in order", at.FailureView), cmp.Or(at.Hint, "see what it lacks: ambassadord doctor")
	}
	return "", "", ""
}

func noRule(e *Explanation) (State, string, string) {
	in := &e.Inside
	switch {
	case !in.Rules || !e.Daemon.Answers || !slices.Contains(e.Daemon.Modes, string(config.Redirect)) || e.Declaration == nil || e.Attached == nil:
		return "", "", ""
	case in.Rule == nil, !in.Rule.Hooked:
		return Broken, "the rule that leads the port to the daemon is gone from the container's network namespace: somebody has flushed its rules",
			"the daemon puts it back, at once or at its next repair (--repair-interval); find who flushes: iptables -F, or a firewall's start script in the container"
	case !in.Rule.Served:
		return Broken, fmt.Sprintf("the port's rule leads to port %d of the container, where nobody listens", in.Rule.Listen), "ambassadord rules remove, and start the daemon again"
	}
	return "", "", ""
}

func deniedEndpoints(e *Explanation) (State, string, string) {
	if e.Declaration == nil || len(e.Declaration.Denied) == 0 {
		return "", "", ""
	}
	first := e.Declaration.Denied[0]
	if len(used(e)) == 0 {
		return Broken, "the policy denies it: " + short(first.Error), first.Hint
	}
	return Doubtful, "the policy denies some endpoints: " + short(first.Error), first.Hint
}

func overLimit(e *Explanation) (State, string, string) {
	for _, l := range e.Limits {
		if l.Most == 0 || l.Open < l.Most && l.Waiting == 0 {
			continue
		}
		text := fmt.Sprintf("the limit of %s is reached: %d of %d connections are open, %d wait", short(l.Limit), l.Open, l.Most, l.Waiting)
		for i, h := range l.Holders {
			if i == 0 {
				text += "; held by "
			} else {
				text += ", "
			}
			text += fmt.Sprintf("%s (%d)", short(h.Client), h.Open)
		}
		fix := "look why they stay open (ambassadord connections), or raise the option target-limit"
		switch {
		case l.Limit == "the daemon":
			fix = "look who opens so many (ambassadord connections), or raise --max-connections and the limit of open files"
		case strings.Contains(l.Limit, " by port "):
			fix = fmt.Sprintf("look why it opens so many, or raise connect.%d.client-limit", e.Asked.Port)
		}
		return Broken, text, fix
	}
	return "", "", ""
}

func dialFailed(e *Explanation) (State, string, string) {
	d := e.Dial
	if d == nil || d.OK || d.Reason != "" { // which the last failure says
		return "", "", ""
	}
	return Broken, fmt.Sprintf("a connection to %s from inside of the container fails: %s", d.Address, d.Error), d.Hint
}

func lastFailure(e *Explanation) (State, string, string) {
	f := e.Failure
	if f == nil || e.Taken.Sub(f.Last) > recent {
		return "", "", ""
	}
	text := fmt.Sprintf("the last connection of %s failed, %s ago: %s", shorten.Count(f.Count, "failed one", "failed ones"), ago(e.Taken.Sub(f.Last)), short(f.Error))
	if f.Count == 1 {
		text = fmt.Sprintf("a connection failed, %s ago: %s", ago(e.Taken.Sub(f.Last)), short(f.Error))
	}
	fix := cmp.Or(short(f.Hint), "what "+f.Reason+" means and what to look at: docs/troubleshooting.md")
	if f.Reason == string(proxy.OperatorClosed) { // once, and for a reason
		return Doubtful, text, fix
	}
	if e.served.After(f.Last) || e.Dial != nil && e.Dial.OK {
		return Doubtful, text + "; later ones were served", fix
	}
	return Broken, text, fix
}

func ago(d time.Duration) string {
	if d < time.Second {
		return "less than a second"
	}
	return d.Round(time.Second).String()
}
