package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// print writes the tables, and what they show.
func (r *insideResult) print(w io.Writer, f format) {
	f.heading(w, 2, "From inside containers")
	f.paragraph(w, fmt.Sprintf("%s, Docker %s, TCP %s; %s; `%s`. Medians of %d rounds, in brackets the middle half of them; "+
		"comparisons are made within a round. CPU is the whole machine's, of it the processes between client and backend.",
		r.Machine, r.Engine, r.congestion(), r.Date.Format("2006-01-02"), r.Command, r.rounds))
	f.paragraph(w, "In the modes of ambassadord the target is docker://NAME:PORT, and the daemon keeps its log in a file.")
	rows := [][]string{{"way", "is"}}
	for _, c := range r.chosen {
		rows = append(rows, []string{c.name, c.is})
	}
	f.table(w, rows)
	if len(r.DockerProxies) == 0 {
		f.paragraph(w, "The engine runs without docker-proxy: what it publishes, containers reach by its rules in the kernel.")
	}
	for _, load := range workloads() {
		f.heading(w, 3, load.name)
		f.table(w, r.rows(load))
	}
	f.heading(w, 3, "One beside the other")
	f.paragraph(w, "In brackets what the median is in with 95% confidence.")
	f.table(w, r.shows())
	for _, c := range r.chosen {
		if why := r.Failures[c.name]; why != "" {
			f.paragraph(w, fmt.Sprintf("%s is out: %s", c.name, why))
		}
	}
}

func (r *insideResult) congestion() string {
	var names []string
	for _, v := range r.Values {
		if !slices.Contains(names, v.Congestion) {
			names = append(names, v.Congestion)
		}
	}
	return strings.Join(names, ", ")
}

// rows are the table of a workload.
func (r *insideResult) rows(load workload) [][]string {
	head := []string{"way", "a second", "p50 µs", "p99 µs", "CPU µs", "of it between", "p50 over direct, µs", "CPU over direct, µs", "CPU ÷ direct", "CPU ÷ published"}
	if load.stream {
		head = []string{"way", "GB/s", "CPU s/GB", "of it between", "GB/s ÷ direct", "CPU over direct, s/GB", "CPU ÷ direct", "CPU ÷ published"}
	}
	rows := [][]string{head}
	for _, c := range r.chosen {
		own := func(figure func(value) float64, scale float64) string {
			return show(r.figures(c.name, load.name, figure), scale)
		}
		over := func(figure func(value) float64, scale float64) string {
			return show(r.paired(c.name, direct, load.name, func(a, b value) float64 { return figure(a) - figure(b) }), scale)
		}
		ratio := func(to string, figure func(value) float64) string {
			return show(r.paired(c.name, to, load.name, func(a, b value) float64 { return figure(a) / figure(b) }), 1)
		}
		if load.stream {
			rows = append(rows, []string{c.name, own(rate, 1), own(cpu, 1e-6), own(proxy, 1e-6),
				ratio(direct, rate), over(cpu, 1e-6), ratio(direct, cpu), ratio(published, cpu)})
			continue
		}
		rows = append(rows, []string{c.name, own(rate, 1), own(p50, 1), own(p99, 1), own(cpu, 1), own(proxy, 1),
			over(p50, 1), over(cpu, 1), ratio(direct, cpu), ratio(published, cpu)})
	}
	return rows
}

func rate(v value) float64  { return v.Rate }
func p50(v value) float64   { return v.P50 }
func p99(v value) float64   { return v.P99 }
func cpu(v value) float64   { return v.CPU }
func proxy(v value) float64 { return v.Proxy }

// show writes the median and the middle half of some figures.
func show(figures []float64, scale float64) string {
	s := report.SpreadOf(figures)
	return bracketed(len(figures), s.Median*scale, s.P25*scale, s.P75*scale, digits)
}

// bracketed writes the middle of n figures, and what is on both sides of it.
func bracketed(n int, middle, low, high float64, digits func(float64) string) string {
	switch {
	case n == 0:
		return "–"
	case low == high:
		return digits(middle)
	default:
		return fmt.Sprintf("%s (%s–%s)", digits(middle), digits(low), digits(high))
	}
}

func digits(f float64) string {
	switch size := max(f, -f); {
	case size >= 100:
		return fmt.Sprintf("%.0f", f)
	case size >= 10:
		return fmt.Sprintf("%.1f", f)
	default:
		return fmt.Sprintf("%.2f", f)
	}
}
