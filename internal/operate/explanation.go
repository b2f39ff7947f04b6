package operate

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/internal/explain"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
)

// WriteExplanation shows an explanation: what was seen, in the order in which a connection goes through
// it, then the verdict and what to do.
func WriteExplanation(w io.Writer, e *explain.Explanation, s Style) {
	p := &factPrinter{w: w, style: s, taken: e.Taken}
	p.daemon(e)
	p.container(e)
	p.network(e)
	p.declaration(e)
	p.target(e)
	p.limits(e)
	p.inside(e)
	p.dial(e.Dial)
	for _, u := range e.Unseen {
		p.fact("not seen", doubtful, u.What+": "+withHint(u.Error, u.Hint))
	}
	fmt.Fprintln(w)
	for _, f := range e.Also {
		p.fact("also", toneOf(f.State), withHint(f.Text, f.Fix))
	}
	p.fact("verdict", toneOf(e.Verdict.State), strings.ToUpper(string(e.Verdict.State))+" ("+e.Verdict.Cause+"): "+e.Verdict.Text)
	if e.Verdict.Fix != "" {
		p.fact("do", well, e.Verdict.Fix)
	}
}

func toneOf(s explain.State) tone {
	switch s {
	case explain.Broken:
		return wrong
	case explain.Doubtful:
		return doubtful
	case explain.OK:
	}
	return well
}

// factPrinter writes facts, each with its subject before it.
type factPrinter struct {
	w     io.Writer
	style Style
	taken time.Time
	last  string // the subject of the last one
}

// subjectWidth is what the subjects take of a line.
const subjectWidth = 11

// fact writes a fact in lines that fit, which end at a space where there is one. The subject is not said
// twice in a row.
func (p *factPrinter) fact(subject string, t tone, text string) {
	shown := subject
	if subject == p.last {
		shown = ""
	}
	p.last = subject
	rest := []rune(cut(printable.Text(text), mostFact))
	for first := true; first || len(rest) > 0; first = false {
		n := len(rest)
		if p.style.Width > 0 {
			n = min(n, max(leastWidth, p.style.Width-subjectWidth))
		}
		n = breakAt(rest, n)
		line := strings.TrimRight(string(rest[:n]), " ")
		pad := strings.Repeat(" ", max(0, subjectWidth-utf8.RuneCountInString(shown)))
		fmt.Fprintf(p.w, "%s%s%s\n", p.style.bold(shown), pad, p.style.paint(line, t))
		rest, shown = []rune(strings.TrimLeft(string(rest[n:]), " ")), ""
	}
}

// mostFact bounds what one fact shows, in characters.
const mostFact = 1000

func (p *factPrinter) daemon(e *explain.Explanation) {
	d := &e.Daemon
	switch {
	case d.Answers && d.Ready:
		p.fact("daemon", well, "ready: "+d.Version+"; modes: "+cmp.Or(strings.Join(d.Modes, ", "), "none"))
	case d.Answers:
		p.fact("daemon", wrong, "NOT READY: "+d.Version+"; modes: "+cmp.Or(strings.Join(d.Modes, ", "), "none"))
	case d.Runs:
		p.fact("daemon", doubtful, "runs, and does not answer: "+withHint(d.Error, d.Hint))
	default:
		p.fact("daemon", wrong, "does not run, so the engine and the sources were asked directly: "+d.Error)
	}
	for _, m := range d.Missing {
		p.fact("daemon", wrong, m.What+": "+withHint(m.Error, m.Hint))
	}
	if e.Engine.Answers {
		p.fact("engine", well, "answers")
	} else {
		p.fact("engine", wrong, "does not answer: "+withHint(e.Engine.Error, e.Engine.Hint))
	}
}

func (p *factPrinter) container(e *explain.Explanation) {
	c := &e.Container
	if c.ID == "" {
		return
	}
	text := fmt.Sprintf("%s (%s), %s", c.Name, c.ID, c.State)
	if !c.Started.IsZero() && c.Running {
		text += " for " + p.since(c.Started)
	}
	for _, more := range []struct{ word, value string }{{"", c.Health}, {"project ", c.Project}, {"service ", c.Service}, {"image ", c.Image}} {
		if more.value != "" {
			text += ", " + more.word + more.value
		}
	}
	t := well
	if c.State == "not running" || c.Health == "unhealthy" {
		t = doubtful
	}
	p.fact("container", t, text)
}

func (p *factPrinter) since(then time.Time) string { return span(p.taken.Sub(then)) }

func (p *factPrinter) network(e *explain.Explanation) {
	c := &e.Container
	if c.Network != "" {
		text := c.Network
		if len(c.Addresses) > 0 {
			text += ", at " + strings.Join(c.Addresses, ", ")
		}
		if c.Owner != "" {
			text += "; the network namespace is that of " + c.Owner
		}
		p.fact("network", well, text)
	}
	for _, f := range []*status.FailureView{c.Left, c.OwnStack} {
		if f != nil {
			p.fact("network", wrong, withHint(f.Error, f.Hint))
		}
	}
	switch at := e.Attached; {
	case at == nil:
	case at.Since.IsZero():
		p.fact("attached", wrong, "not yet, by mode "+at.Mode+": "+withHint(at.Error, at.Hint))
	default:
		text := fmt.Sprintf("for %s, by mode %s", p.since(at.Since), at.Mode)
		if late := at.Since.Sub(c.Started); !c.Started.IsZero() && late > time.Second {
			text += fmt.Sprintf(": it had run for %s before the daemon attached to it", span(late))
		}
		t := well
		if at.Error != "" {
			t, text = wrong, text+"; now it fails: "+withHint(at.Error, at.Hint)
		}
		p.fact("attached", t, text)
	}
	switch in := &e.Inside; {
	case in.Rule != nil:
		text := in.Rule.Text
		if in.Rule.Counted {
			text += fmt.Sprintf("; it has led %s there", shorten.Count(int(min(in.Rule.Packets, 1<<40)), "connection", "connections"))
		}
		t := well
		if !in.Rule.Hooked {
			t, text = wrong, text+"; nothing leads to its chain"
		}
		if !in.Rule.Served {
			t, text = wrong, text+fmt.Sprintf("; nobody listens at port %d", in.Rule.Listen)
		}
		p.fact("rule", t, text)
	case in.Rules && slices.Contains(e.Daemon.Modes, "redirect"):
		p.fact("rule", wrong, "none in its network namespace leads the port to the daemon")
	}
}

func (p *factPrinter) declaration(e *explain.Explanation) {
	switch d := e.Declaration; {
	case d == nil && e.Container.ID == "":
		return
	case d == nil:
		p.fact("declared", wrong, fmt.Sprintf("nothing for port %d", e.Asked.Port))
		if len(e.Ports) > 0 {
			p.fact("declared", well, "other ports: "+strings.Trim(fmt.Sprint(e.Ports), "[]"))
		}
	case d.Error != "":
		p.fact("declared", wrong, d.Target+", by "+d.Origin+": "+withHint(d.Error, d.Hint))
	case d.Overruled != "":
		p.fact("declared", wrong, d.Target+", by "+d.Origin+": "+d.Overruled)
	default:
		p.fact("declared", well, d.Target+", by "+d.Origin)
		for _, one := range d.Denied {
			p.fact("policy", wrong, withHint(one.Error, one.Hint))
		}
	}
	for _, n := range e.NearMisses {
		p.fact("near miss", doubtful, withHint(n.Where+": "+n.Why, n.Fix))
	}
}

// mostEndpoints is how many endpoints are shown unless all are asked for.
const mostEndpoints = 10

func (p *factPrinter) target(e *explain.Explanation) {
	t := e.Target
	if t == nil {
		return
	}
	text := t.Meaning
	if t.Choice > 1 || slices.ContainsFunc(t.Sources, func(q status.SourceView) bool { return q.Choice > 1 }) {
		text += fmt.Sprintf("; choice %d of its fallback chain is used", t.Choice)
	}
	if t.Error != "" && len(t.Endpoints) == 0 {
		p.fact("target", wrong, text+": "+withHint(t.Error, t.Hint))
	} else {
		p.fact("target", well, text)
	}
	for _, q := range t.Sources {
		p.source(&q)
	}
	all := e.Endpoints
	if !p.style.All {
		all = all[:min(len(all), mostEndpoints)]
	}
	for i := range all {
		p.endpoint(&all[i])
	}
	if more := len(e.Endpoints) - len(all); more > 0 {
		p.fact("endpoint", well, fmt.Sprintf("and %d more", more))
	}
}

func (p *factPrinter) source(q *status.SourceView) {
	text := fmt.Sprintf("%s: %s", q.Source, shorten.Count(len(q.Endpoints), "endpoint", "endpoints"))
	t := well
	if !q.Answered.IsZero() {
		text += ", answered " + p.since(q.Answered) + " ago"
	}
	switch {
	case q.Error != "":
		t, text = doubtful, text+"; it fails: "+withHint(q.Error, q.Hint)
	case q.Answered.IsZero():
		t, text = doubtful, text+"; it has not answered yet"
	}
	p.fact("source", t, text)
	for i, l := range q.LeftOut {
		if i == mostEndpoints && !p.style.All {
			p.fact("left out", doubtful, fmt.Sprintf("and %d more", len(q.LeftOut)-i))
			break
		}
		p.fact("left out", doubtful, strings.TrimSpace(l.Name+" "+l.Address)+" "+l.Why)
	}
	for _, note := range q.Notes {
		p.fact("note", doubtful, note)
	}
}

func (p *factPrinter) endpoint(one *explain.Endpoint) {
	text := strings.TrimSpace(one.Address+" "+one.Name) + ": " + one.State
	if one.Health != "" {
		text += ", " + one.Health
	}
	if one.Weight != 1 && one.Weight != 0 {
		text += fmt.Sprintf(", weight %d", one.Weight)
	}
	if one.Priority != 0 {
		text += fmt.Sprintf(", priority %d", one.Priority)
	}
	text += fmt.Sprintf(", %d open", one.Open)
	t := well
	if one.State != "used" {
		t, text = wrong, withReason(text, one.Why)
	}
	if one.Until.After(p.taken) {
		text += ", for another " + span(one.Until.Sub(p.taken))
	}
	if one.State == "used" && one.Failures > 0 {
		t, text = doubtful, withReason(text+", failed "+shorten.Count(one.Failures, "time", "times")+" in a row", one.WhyFails)
	}
	if one.Deaf != "" {
		t, text = doubtful, text+": "+one.Deaf
	}
	p.fact("endpoint", t, text)
}

func (p *factPrinter) limits(e *explain.Explanation) {
	for _, l := range e.Limits {
		if l.Most == 0 && l.Rate == 0 && l.Waiting == 0 {
			continue
		}
		t := well
		if l.Waiting > 0 || l.Most > 0 && l.Open >= l.Most {
			t = wrong
		}
		text := fmt.Sprintf("%s: %d of %d open, %d waiting", l.Limit, l.Open, l.Most, l.Waiting)
		for i, h := range l.Holders {
			text += fmt.Sprintf("%s %s (%d)", map[bool]string{true: "; most by", false: ","}[i == 0], h.Client, h.Open)
		}
		p.fact("limit", t, text)
	}
	if e.Daemon.Answers && e.Declaration != nil {
		p.fact("open", well, shorten.Count(e.Open, "connection", "connections")+" of the container by the port")
	}
	if f := e.Failure; f != nil {
		p.fact("failed", doubtful, fmt.Sprintf("%s, the last %s ago: %s: %s", shorten.Count(f.Count, "connection", "connections"), p.since(f.Last), f.Reason, withHint(f.Error, f.Hint)))
	}
}

func (p *factPrinter) inside(e *explain.Explanation) {
	in := &e.Inside
	if !in.Looked {
		return
	}
	if len(in.Listens) > 0 {
		p.fact("sockets", doubtful, "the container itself listens at "+strings.Join(in.Listens, ", "))
	}
	if in.UDP > 0 {
		p.fact("sockets", doubtful, shorten.Count(in.UDP, "socket speaks", "sockets speak")+fmt.Sprintf(" UDP to port %d", e.Asked.Port))
	}
	p.fact("sockets", well, fmt.Sprintf("since its network namespace was made, %s from there failed, and %s came to a port at which nobody listens",
		shorten.Count(int(min(in.TCPFailed, 1<<40)), "connection", "connections"), shorten.Count(int(min(in.UDPUnheard, 1<<40)), "UDP datagram", "UDP datagrams")))
}

func (p *factPrinter) dial(d *explain.Dial) {
	if d == nil {
		return
	}
	for _, step := range d.Steps {
		p.fact("dial", well, step.Took+" "+step.What)
	}
	switch {
	case d.OK:
		p.fact("dial", well, d.Address+" is served; nothing was sent")
	case d.Reason != "":
		p.fact("dial", wrong, d.Reason+": "+withHint(d.Error, d.Hint))
	default:
		p.fact("dial", wrong, withHint(d.Error, d.Hint))
	}
}
