package report

import (
	"fmt"
	"strings"
)

// Verdict is whether something that is claimed holds, with the figures.
type Verdict struct {
	Claim  string
	Known  bool // whether there were figures to judge by
	Met    bool
	Figure string
}

func (v Verdict) String() string { return fmt.Sprintf("%-12s %s: %s", v.state(), v.Claim, v.Figure) }

func (v Verdict) state() string {
	switch {
	case !v.Known:
		return "not measured"
	case v.Met:
		return "met"
	}
	return "not met"
}

// claim is a ratio of ours that must stay on one side of a limit for each of some
// measures.
type claim struct {
	text     string
	place    Place
	measures []string
	metric   Metric
	against  []string // the best of them
	limit    float64
}

func claims() []claim {
	bulk := []string{Bulk("up", 1), Bulk("up", 8), Bulk("down", 1), Bulk("down", 8)}
	requests := []string{Ask(64, 64), Ask(4096, 64)}
	churn := []string{Churn(1), Churn(64)}
	http := []string{HTTPKeepAlive, HTTPClose}
	return []claim{
		{"1 bulk: throughput ≥ 2 × the best of HAProxy and nginx", Private, bulk, Rate(), []string{HAProxy, Nginx}, 2},
		{"1 bulk: CPU per GB ≤ 0.25 × nginx's", Private, bulk, CPU(), []string{Nginx}, 0.25},
		{"1 bulk: CPU per GB ≤ the plain loop's", Private, bulk, CPU(), []string{Plain}, 1},
		{"2 bulk, unprivileged, 100 idle connections beside: CPU per GB ≤ 0.2 × the plain loop's", Unprivileged, bulk, CPU(), []string{Plain}, 0.2},
		{"3 requests × 64: CPU per operation ≤ 1.05 × the best C proxy's", Private, requests, CPU(), proxiesInC(), 1.05},
		{"3 requests × 64: CPU per operation ≤ 0.8 × the plain loop's", Private, requests, CPU(), []string{Plain}, 0.8},
		{"3 requests × 64: rate no worse than HAProxy's", Private, requests, Rate(), []string{HAProxy}, 1},
		{"3 requests × 64: p99 no worse than HAProxy's", Private, requests, P99(), []string{HAProxy}, 1},
		{"4 churn: CPU per connection ≤ 1.1 × the best C proxy's", Private, churn, CPU(), proxiesInC(), 1.1},
		{"4 churn: CPU per connection ≤ 0.7 × the plain loop's", Private, churn, CPU(), []string{Plain}, 0.7},
		{"4 HTTP: rate no worse than nginx's", Private, http, Rate(), []string{Nginx}, 1},
	}
}

// Verdicts judges every claim by the medians.
func (r *Result) Verdicts() (all []Verdict) {
	for _, c := range claims() {
		all = append(all, r.judge(c))
	}
	return append(all, r.judgeIdle()...)
}

func (r *Result) judge(c claim) Verdict {
	v := Verdict{Claim: c.text, Known: true, Met: true}
	var figures []string
	for _, measure := range c.measures {
		best, ok := r.Best(c.place, measure, c.against, c.metric)
		ratio := Spread{}
		if ok {
			ratio = r.Ratio(c.place, measure, Ours, best, c.metric)
		}
		if ratio.N == 0 {
			v.Known = false
			figures = append(figures, measure+" –")
			continue
		}
		if c.metric.more && ratio.Median < c.limit || !c.metric.more && ratio.Median > c.limit {
			v.Met = false
		}
		figures = append(figures, fmt.Sprintf("%s %s of %s", measure, ratio, best))
	}
	v.Figure = strings.Join(figures, ", ")
	return v
}

func (r *Result) idle(contestant string, conns int) (Idle, bool) {
	for _, i := range r.Idle {
		if i.Contestant == contestant && i.Conns == conns && i.Error == "" {
			return i, true
		}
	}
	return Idle{}, false
}

// Crowd is how many idle connections a proxy with 20,000 descriptors is to hold.
const Crowd = 9000

func (r *Result) judgeIdle() []Verdict {
	ours, ok := r.idle(Ours, Crowd)
	theirs, okToo := r.idle(HAProxy, Crowd)
	memory := Verdict{Claim: "5 idle at 9,000: user memory ≤ 0.2 × HAProxy's", Known: ok && okToo, Figure: "–"}
	if memory.Known {
		memory.Met = ours.Memory <= 0.2*theirs.Memory
		memory.Figure = fmt.Sprintf("%.2f KiB, HAProxy's %.2f KiB", ours.Memory/1024, theirs.Memory/1024)
	}
	rest := []Verdict{
		{Claim: "5 idle at 9,000: two descriptors, no pipe", Known: ok, Met: ours.Descriptors < 2.05 && ours.Pipes < 0.05,
			Figure: fmt.Sprintf("%.2f descriptors, %.2f ends of pipes", ours.Descriptors, ours.Pipes)},
		{Claim: "5 idle: 9,000 held with 20,000 descriptors", Known: ok, Met: ours.Held == Crowd, Figure: fmt.Sprint(ours.Held)},
	}
	overrun := Verdict{Claim: "5 idle: running out of descriptors survived and recovered from", Known: ok && ours.Overrun != nil, Figure: "–"}
	if overrun.Known {
		o := ours.Overrun
		overrun.Met = o.Survived && o.Recovered
		overrun.Figure = fmt.Sprintf("%d asked for, %d held, survived %t, recovered %t", o.Asked, o.Held, o.Survived, o.Recovered)
	}
	return append([]Verdict{memory}, append(rest, overrun)...)
}
