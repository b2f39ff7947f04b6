package explain

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
)

// What is wrong with a target: its sources, and its endpoints.

// unresolved is the target, if it has no endpoint.
func unresolved(e *Explanation) *status.TargetView {
	if e.Target == nil || len(e.Target.Endpoints) > 0 {
		return nil
	}
	return e.Target
}

// said is all that a target's sources say about why it has no endpoint.
func said(t *status.TargetView) string {
	texts := []string{t.Error}
	for _, q := range t.Sources {
		texts = append(texts, q.Error)
		texts = append(texts, q.Notes...)
	}
	return strings.Join(texts, "\n")
}

// hintOf is what to do about a target without endpoints.
func hintOf(t *status.TargetView) string {
	fix := t.Hint
	for _, q := range t.Sources {
		fix = cmp.Or(fix, q.Hint)
	}
	return fix
}

func ambiguous(e *Explanation) (State, string, string) {
	t := unresolved(e)
	if t == nil || !strings.Contains(said(t), "of more than one project") {
		return "", "", ""
	}
	return Broken, "the name is not surely one: " + short(whyNone(t)), hintOf(t)
}

// whyNone says why a target has no endpoint.
func whyNone(t *status.TargetView) string {
	why := t.Error
	for _, q := range t.Sources {
		why = cmp.Or(why, q.Error, strings.Join(q.Notes, "; "))
	}
	return cmp.Or(why, "its sources have not answered yet")
}

func unreachable(e *Explanation) (State, string, string) {
	t := unresolved(e)
	if t == nil {
		return "", "", ""
	}
	for _, q := range t.Sources {
		for _, l := range q.LeftOut {
			if l.Unhealthy || !strings.Contains(l.Why, " network") && !strings.Contains(l.Why, "publish") {
				continue
			}
			return Broken, fmt.Sprintf("%s cannot be reached from here: it %s", cmp.Or(short(l.Name), short(l.Address)), short(l.Why)),
				"publish the port and add published=1 to the target, or put the container on a network that this host is on and name it by network=NAME (docs/targets.md)"
		}
	}
	return "", "", ""
}

func allLeftOut(e *Explanation) (State, string, string) {
	t := unresolved(e)
	if t == nil {
		return "", "", ""
	}
	out, unhealthy, first, ours := 0, 0, "", ""
	for _, q := range t.Sources {
		for _, l := range q.LeftOut {
			out++
			if l.Unhealthy {
				unhealthy++
			}
			if first == "" && l.Name != "" && strings.HasPrefix(q.Source, "docker://") {
				ours = map[string]string{"is paused": "docker unpause ", "is not running": "docker start "}[l.Why]
				ours += map[bool]string{true: short(l.Name)}[ours != ""]
			}
			first = cmp.Or(first, cmp.Or(short(l.Name), short(l.Address), "it")+" "+short(l.Why))
		}
	}
	if out == 0 {
		return "", "", ""
	}
	text := fmt.Sprintf("the source knows %s of the target, and none of them serves: %s", shorten.Count(out, "instance", "instances"), first)
	fix := "see why: ambassadord resolve --as " + e.Container.Name + " '" + e.Declaration.Target + "'"
	switch {
	case ours != "":
		fix = ours
	case unhealthy > 0:
		fix = "mend it: its health check fails (docker inspect shows the check's output, a registry its own)"
	}
	return Broken, text, fix
}

func sourceFails(e *Explanation) (State, string, string) {
	t := unresolved(e)
	if t == nil {
		return "", "", ""
	}
	for _, q := range t.Sources {
		if q.Error != "" {
			fix := cmp.Or(q.Hint, t.Hint, "see whether it answers: ambassadord doctor")
			return Broken, fmt.Sprintf("the source %s fails: %s", short(q.Source), short(q.Error)), withoutPort(e.Declaration.Target) + fix
		}
	}
	return "", "", ""
}

func noEndpoints(e *Explanation) (State, string, string) {
	t := unresolved(e)
	for _, more := range []func(*Explanation) (State, string, string){ambiguous, unreachable, allLeftOut, sourceFails} {
		if state, _, _ := more(e); t == nil || state != "" { // which says why
			return "", "", ""
		}
	}
	fix := cmp.Or(hintOf(t), "see who serves it: ambassadord resolve '"+e.Declaration.Target+"'")
	return Broken, "the target has no endpoint: " + short(whyNone(t)), withoutPort(e.Declaration.Target) + fix
}

// withoutPort says of a name that has no port what that means, which may not be what was meant.
func withoutPort(target string) string {
	if strings.ContainsAny(target, ":/|, ") {
		return ""
	}
	return "a name without a port means SRV records: for its addresses write " + target + ":PORT; "
}

// drained is what an operator has decided of endpoints.
func drained(e *Explanation) (State, string, string) {
	n, first := 0, (*Endpoint)(nil)
	for i := range e.Endpoints {
		if one := &e.Endpoints[i]; one.State == "drained" || one.State == "ejected" && one.Why == byOperator {
			if n++; first == nil || one.State == "drained" {
				first = one
			}
		}
	}
	if first == nil {
		return "", "", ""
	}
	text := fmt.Sprintf("endpoint %s is %s by an operator", first.Address, first.State)
	if !first.Until.IsZero() {
		text += " until " + first.Until.Format(time.TimeOnly)
	}
	fix := "take that back: ambassadord endpoints restore " + first.Address
	if n < len(e.Endpoints) || first.State == "ejected" {
		return Doubtful, fmt.Sprintf("%s, as %d of %d are", text, n, len(e.Endpoints)), fix
	}
	return Broken, text + ", and there is no other", fix
}

func ejected(e *Explanation) (State, string, string) {
	out, first := 0, (*Endpoint)(nil)
	for i := range e.Endpoints {
		if s := e.Endpoints[i].State; (s == "ejected" || s == "down") && e.Endpoints[i].Why != byOperator {
			out++
			if first == nil {
				first = &e.Endpoints[i]
			}
		}
	}
	if first == nil {
		return "", "", ""
	}
	text := fmt.Sprintf("endpoint %s is %s: %s", first.Address, first.State, cmp.Or(first.Why, "it has failed"))
	if !first.Until.IsZero() {
		text += ", until " + first.Until.Format(time.TimeOnly)
	}
	fix := "mend the endpoint: nothing is sent there until then, or until it is the last"
	if out < len(e.Endpoints) {
		return Doubtful, fmt.Sprintf("%s, as %d of %d are", text, out, len(e.Endpoints)), fix
	}
	return Broken, text + ", and there is no other", fix
}

func staleAnswer(e *Explanation) (State, string, string) {
	if e.Target == nil || len(e.Target.Endpoints) == 0 {
		return "", "", ""
	}
	for _, q := range e.Target.Sources {
		if q.Error != "" {
			text := fmt.Sprintf("the source %s fails, and its last answer holds: %s", short(q.Source), short(q.Error))
			return Doubtful, text, cmp.Or(q.Hint, "see whether it answers: ambassadord doctor")
		}
	}
	return "", "", ""
}
