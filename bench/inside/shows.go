package main

import "fmt"

// claim is that one way is cheaper than another.
type claim struct{ cheaper, than string }

func claims() []claim {
	return []claim{{listen, redirect}, {redirect, published}, {listen, published}, {host, published}, {listen, dnat}}
}

// comparison is what claims are judged by under one workload.
type comparison struct {
	workload, of string
	figure       func(value) float64
}

// comparisons are the machine's CPU of every operation, and where there is one connection
// the median latency, which with more is but the CPU's in another word.
func comparisons() []comparison {
	var all []comparison
	for _, w := range workloads() {
		all = append(all, comparison{w.name, "CPU", cpu})
		if w.job.Connections == 1 {
			all = append(all, comparison{w.name, "p50", p50})
		}
	}
	return all
}

// shows are the claims, each with the former ÷ the latter in every comparison, and whether
// the median is below 1 in all of them. Claims with a contestant that did not run are
// left out.
func (r *result) shows() [][]string {
	head, verdicts := []string{"", ""}, []string{"**the former is cheaper**", ""}
	rows := make([][]string, len(comparisons()))
	for i, c := range comparisons() {
		rows[i] = []string{c.workload, c.of}
	}
	for _, claim := range claims() {
		met, of := 0, 0
		column := make([]string, len(rows))
		for i, c := range comparisons() {
			s := r.paired(claim.cheaper, claim.than, c.workload, func(a, b value) float64 { return c.figure(a) / c.figure(b) })
			column[i] = show(s, 1)
			if s.n > 0 {
				of++
			}
			if s.n > 0 && s.median < 1 {
				met++
			}
		}
		if of == 0 {
			continue
		}
		head = append(head, claim.cheaper+" ÷ "+claim.than)
		for i := range rows {
			rows[i] = append(rows[i], column[i])
		}
		verdict := "not met"
		if met == of {
			verdict = "met"
		}
		verdicts = append(verdicts, fmt.Sprintf("**%s**: %d of %d", verdict, met, of))
	}
	return append(append([][]string{head}, rows...), verdicts)
}
