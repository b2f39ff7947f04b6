package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// cheaperClaim is that one way is cheaper than another.
type cheaperClaim struct{ cheaper, than string }

func claims() []cheaperClaim {
	return []cheaperClaim{{listen, redirect}, {redirect, published}, {listen, published}, {host, published}, {listen, dnat}}
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
func (r *insideResult) shows() [][]string {
	head, verdicts := []string{"", ""}, []string{"**the former is cheaper**", ""}
	rows := make([][]string, len(comparisons()))
	for i, c := range comparisons() {
		rows[i] = []string{c.workload, c.of}
	}
	for _, claim := range claims() {
		met, of := 0, 0
		column := make([]string, len(rows))
		for i, c := range comparisons() {
			ratios := r.paired(claim.cheaper, claim.than, c.workload, func(a, b value) float64 { return c.figure(a) / c.figure(b) })
			median := report.SpreadOf(ratios).Median
			low, high := confidence(ratios)
			column[i] = bracketed(len(ratios), median, low, high, thousandths)
			if len(ratios) > 0 {
				of++
			}
			if median < 1 {
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

// thousandths, since a ratio near 1 is no news without them.
func thousandths(f float64) string { return strconv.FormatFloat(f, 'f', 3, 64) }

// confidence is the interval that the median of what figures are a sample of is in, with
// 95% confidence, whatever their distribution is: of the order statistics, those two
// outside which the median lies with a binomial distribution's probability of 2.5% each.
// Fewer than six figures cannot tell so much; it is all of them then.
func confidence(figures []float64) (low, high float64) {
	if len(figures) == 0 {
		return math.NaN(), math.NaN()
	}
	sorted := slices.Sorted(slices.Values(figures))
	n := len(sorted)
	outside := 0
	for k, below := 0, chance(n, 0); below <= 0.025; below += chance(n, k) {
		outside = k
		k++
	}
	return sorted[outside], sorted[n-1-outside]
}

// chance is that of k heads in n throws of a coin. Of many throws 2⁻ⁿ is no float64, but
// its logarithm is.
func chance(n, k int) float64 {
	log := func(n int) float64 { // of n!
		l, _ := math.Lgamma(float64(n) + 1)
		return l
	}
	return math.Exp(log(n) - log(k) - log(n-k) - float64(n)*math.Ln2)
}
