package operate

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
)

// WriteStatus shows what a daemon knows in one screen, what is wrong first.
func WriteStatus(w io.Writer, v status.View, r admin.Readiness, s Style) {
	writeDaemon(w, &v, r, s)
	known := judgeTargets(&v)
	left := 0
	for _, g := range []*grid{listenersGrid(&v, known), containersGrid(&v, known), targetsGrid(&v, known), limitsGrid(&v)} {
		g.write(w, s)
		if g.more > 0 {
			fmt.Fprintf(w, "… and %d more\n", g.more)
			left += g.more
		}
	}
	if left > 0 {
		fmt.Fprintf(w, "\n%s left out; all: ambassadord status --all\n", shorten.Count(left, "row was", "rows were"))
	}
}

// writeDaemon shows the process.
func writeDaemon(w io.Writer, v *status.View, r admin.Readiness, s Style) {
	state := s.paint("ready", well)
	if !r.Ready {
		state = s.paint("NOT READY", wrong)
	}
	fmt.Fprintf(w, "%s: %s\n", printable.Text(v.Daemon.Version), state)
	for _, missing := range r.NotReady {
		fmt.Fprintf(w, "  %s: %s\n", s.paint(printable.Text(missing.What), wrong), cut(printable.Text(missing.Why), mostCell))
		if missing.Hint != "" {
			fmt.Fprintf(w, "    hint: %s\n", cut(printable.Text(missing.Hint), mostCell))
		}
	}
	modes := strings.Join(v.Daemon.Modes, ", ")
	engine := "answers"
	switch {
	case v.Daemon.Error != "":
		engine = s.paint("away: "+cut(printable.Text(v.Daemon.Error), mostCell), wrong)
	case modes == "":
		engine = "not needed for containers: there is no mode"
	}
	fmt.Fprintf(w, "modes: %s; engine: %s\n", cmp.Or(modes, "none"), engine)
	declaring := 0
	for _, c := range v.Containers {
		if len(c.Bindings) > 0 || c.Mistakes > 0 {
			declaring++
		}
	}
	fmt.Fprintf(w, "containers: %d, of which %d declare; targets: %d; listeners: %d; connections: %d\n",
		len(v.Containers), declaring, len(v.Targets), len(v.Listeners), len(v.Connections))
	if c := v.Daemon.Config; c.Error != "" {
		fmt.Fprintln(w, s.paint(fmt.Sprintf("configuration: that of %s ago holds, for the last reload was refused: %s", span(v.Taken.Sub(c.Read)), cut(printable.Text(c.Error), mostCell)), wrong))
		if c.Hint != "" {
			fmt.Fprintln(w, "  hint: "+cut(printable.Text(c.Hint), mostCell))
		}
	}
	if v.Daemon.HandOver != "" && v.Daemon.HandOver != "none" {
		fmt.Fprintf(w, "handover to another daemon: %s\n", printable.Text(v.Daemon.HandOver))
	}
}

// judgement is what a target is like, in a few words.
type judgement struct {
	tone tone
	text string
}

// judgeTargets says of each target, by its meaning, what those who dial it get.
func judgeTargets(v *status.View) map[string]judgement {
	known := map[string]judgement{}
	for i := range v.Targets {
		known[v.Targets[i].Meaning] = judgeTarget(&v.Targets[i], v)
	}
	return known
}

func judgeTarget(t *status.TargetView, v *status.View) judgement {
	if len(t.Endpoints) == 0 {
		if waits(t) {
			return judgement{doubtful, "waits for its first answer"}
		}
		return judgement{wrong, withHint(cmp.Or(t.Error, "no endpoints"), t.Hint)}
	}
	members, out := v.Members(t.Meaning), 0
	for _, e := range t.Endpoints {
		if members[e.Address].Out {
			out++
		}
	}
	switch {
	case out == len(t.Endpoints):
		return judgement{wrong, "every endpoint is out"}
	case out > 0:
		return judgement{doubtful, fmt.Sprintf("%d of %d endpoints are out", out, len(t.Endpoints))}
	}
	for _, q := range t.Sources {
		if q.Error != "" {
			return judgement{doubtful, "its source fails; the last answer holds"}
		}
	}
	return judgement{well, "ok"}
}

// waits reports whether no source of a target has answered yet, and none has failed.
func waits(t *status.TargetView) bool {
	return len(t.Sources) > 0 && !slices.ContainsFunc(t.Sources, func(q status.SourceView) bool { return !q.Answered.IsZero() || q.Error != "" })
}

func withHint(why, fix string) string {
	if fix == "" {
		return why
	}
	return why + "; hint: " + fix
}

func listenersGrid(v *status.View, known map[string]judgement) *grid {
	g := &grid{title: "Listeners", columns: []string{"LISTENS", "TARGET", "STATE"}}
	for _, l := range v.Listeners {
		state, ok := known[l.Target]
		if !ok {
			state = judgement{well, "-"}
		}
		listens := l.Address
		if l.Listens.IsValid() {
			listens = l.Listens.String()
		}
		g.add(state.tone, listens, l.Target, state.text)
	}
	return g
}

func containersGrid(v *status.View, known map[string]judgement) *grid {
	g := &grid{title: "Containers", columns: []string{"CONTAINER", "PORT", "TARGET", "DECLARED BY", "STATE"}}
	for _, c := range v.Containers {
		problems := slices.Clone(c.Problems)
		for _, b := range c.Bindings {
			state, ok := known[b.Meaning]
			switch {
			case b.Problem != "":
				state = judgement{wrong, b.Problem}
				if i := slices.IndexFunc(problems, func(p status.Problem) bool { return b.Problem == p.Origin+": "+p.Error }); i >= 0 { // one mistake is one row
					state.text = withHint(problems[i].Error, problems[i].Hint)
					problems = slices.Delete(problems, i, i+1)
				}
			case b.Overruled != "":
				state = judgement{doubtful, b.Overruled}
			case !ok:
				state = judgement{well, "-"}
			}
			g.add(state.tone, c.Name, fmt.Sprint(b.Port), b.Target, b.Origin, state.text)
		}
		for _, p := range problems {
			g.add(wrong, c.Name, "-", "-", p.Origin, withHint(p.Error, p.Hint))
		}
		if more := c.Mistakes - len(c.Problems); more > 0 {
			g.add(wrong, c.Name, "-", "-", "-", shorten.Count(more, "more mistake", "more mistakes"))
		}
	}
	return g
}

func targetsGrid(v *status.View, known map[string]judgement) *grid {
	g := &grid{title: "Targets", columns: []string{"TARGET", "ENDPOINT", "NAME", "OPEN", "ANSWERED", "STATE"}}
	for i := range v.Targets {
		t := &v.Targets[i]
		members := v.Members(t.Meaning)
		if len(t.Endpoints) == 0 {
			state := known[t.Meaning]
			g.add(state.tone, t.Meaning, "-", "-", "-", answered(t, "", v.Taken), state.text)
		}
		for _, e := range t.Endpoints {
			state := judgeEndpoint(e, members[e.Address], v.Taken)
			open := "0"
			if m := members[e.Address]; m.Health != nil {
				open = fmt.Sprint(m.Health.Open)
			}
			g.add(state.tone, t.Meaning, e.Address, cmp.Or(e.Name, "-"), open, answered(t, e.Address, v.Taken), state.text)
		}
		for _, q := range t.Sources {
			if q.Error != "" && len(t.Endpoints) > 0 {
				text := "source " + q.Source + " fails"
				if !q.Failing.IsZero() {
					text += " for " + span(v.Taken.Sub(q.Failing))
				}
				g.add(doubtful, t.Meaning, "-", "-", "-", age(q.Answered, v.Taken), withHint(text+": "+q.Error, q.Hint))
			}
		}
	}
	return g
}

// answered is how long ago the source of an endpoint has answered, or any of the target's.
func answered(t *status.TargetView, address string, now time.Time) string {
	var last time.Time
	for _, q := range t.Sources {
		has := address == "" || slices.ContainsFunc(q.Endpoints, func(e status.EndpointView) bool { return e.Address == address })
		if has && q.Answered.After(last) {
			last = q.Answered
		}
	}
	return age(last, now)
}

func age(then, now time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return span(now.Sub(then)) + " ago"
}

// judgeEndpoint says whether an endpoint is dialled, and if not, why. Without a pool nobody has dialled
// it yet.
func judgeEndpoint(e status.EndpointView, m status.MemberView, now time.Time) judgement {
	if m.Health == nil {
		return judgement{well, cmp.Or(e.Health, "not dialled yet")}
	}
	if d := m.Decided; d != nil {
		switch {
		case d.State == "drained":
			return judgement{doubtful, "drained by an operator"}
		case d.State == "ejected" && d.Until.IsZero():
			return judgement{doubtful, "ejected by an operator"}
		case d.State == "ejected" && d.Until.After(now):
			return judgement{doubtful, "ejected by an operator for another " + span(d.Until.Sub(now))}
		}
	}
	h := m.Health
	for _, c := range h.Checks {
		if c.Verdict == "down" {
			return judgement{wrong, withReason("down for "+span(now.Sub(c.Since))+", by its check", c.Why)}
		}
	}
	switch {
	case h.Ejected && h.EjectedUntil.After(now):
		return judgement{wrong, withReason("ejected for another "+span(h.EjectedUntil.Sub(now)), h.Why)}
	case h.Ejected:
		return judgement{wrong, withReason("ejected, tried by the next connection", h.Why)}
	case m.Out:
		return judgement{wrong, withReason("out", h.Why)}
	case h.Failures > 0:
		return judgement{doubtful, withReason("failed "+shorten.Count(h.Failures, "time", "times")+" in a row", h.Why)}
	}
	return judgement{well, cmp.Or(e.Health, "ok")}
}

func withReason(text, why string) string {
	if why == "" {
		return text
	}
	return text + ": " + why
}

func limitsGrid(v *status.View) *grid {
	g := &grid{title: "Limits", columns: []string{"LIMIT", "OPEN", "MOST", "WAITING", "RATE"}}
	number := func(n int) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprint(n)
	}
	for _, l := range v.Limits {
		t := well
		switch {
		case l.Waiting > 0:
			t = wrong
		case l.Most > 0 && l.Open*10 >= l.Most*9:
			t = doubtful
		}
		g.add(t, l.Limit, fmt.Sprint(l.Open), number(l.Most), fmt.Sprint(l.Waiting), number(l.Rate))
	}
	return g
}
