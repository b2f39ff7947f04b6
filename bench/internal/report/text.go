package report

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// textTable is rows of cells, the first of which is the head.
type textTable struct {
	title string
	rows  [][]string
}

func (t textTable) text(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", strings.ReplaceAll(t.title, "**", ""))
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-len([]rune(cell))+2))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

func (t textTable) markdown(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", t.title)
	for i, row := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintln(w, "|"+strings.Repeat(" --- |", len(row)))
		}
	}
}

// Text prints everything.
func (r *Result) Text(w io.Writer) {
	for _, t := range r.tables() {
		t.text(w)
	}
	fmt.Fprintln(w)
	for _, v := range r.Verdicts() {
		fmt.Fprintln(w, v)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note:", n)
	}
}

func (r *Result) tables() (all []textTable) {
	titles := map[Place]string{
		Private:      "In a private network namespace",
		Host:         "In the host's network namespace",
		Unprivileged: "Each proxy an unprivileged user of its own, 100 idle connections beside",
	}
	for _, place := range []Place{Private, Unprivileged, Host} {
		for _, measure := range r.Measures(place) {
			all = append(all, r.measured(titles[place], place, measure))
		}
	}
	if changes := r.changes(titles); len(changes.rows) > 1 {
		all = append(all, changes)
	}
	if len(r.Idle) > 0 {
		all = append(all, r.idleTable())
	}
	if len(r.Starts) > 0 {
		all = append(all, r.startTable())
	}
	return all
}

// changes compares the daemon with another build of it, within rounds.
func (r *Result) changes(titles map[Place]string) textTable {
	t := textTable{title: "**The daemon ÷ the one before: medians, and the bounds of each with 95% confidence**", rows: [][]string{{"measure", "place", "rate", "CPU", "p99"}}}
	for _, place := range []Place{Private, Unprivileged, Host} {
		for _, measure := range r.Measures(place) {
			if len(r.ratios(place, measure, Ours, Before, Rate())) == 0 {
				continue
			}
			row := []string{measure, titles[place]}
			for _, m := range []Metric{Rate(), CPU(), P99()} {
				row = append(row, change(r.ratios(place, measure, Ours, Before, m)))
			}
			t.rows = append(t.rows, row)
		}
	}
	return t
}

func change(ratios []float64) string {
	if len(ratios) == 0 {
		return "–"
	}
	text := fmt.Sprintf("%.3f", SpreadOf(ratios).Median)
	if low, high, ok := MedianWithin(ratios); ok {
		text += fmt.Sprintf(" (%.3f–%.3f)", low, high)
	}
	return text
}

func (r *Result) measured(title string, place Place, measure string) textTable {
	rate, cpu, scale := "operations/s", "CPU µs/operation", 1e6
	if isBulk(measure) {
		rate, cpu, scale = "GB/s", "CPU s/GB", 1
	}
	t := textTable{title: fmt.Sprintf("**%s.** %s", measure, title), rows: [][]string{{
		"contestant", rate, "rate/direct", "rate/plain", "rate/best C",
		cpu, "CPU/plain", "CPU/best C", "p50 µs", "p99 µs", "p99.9 µs", "failed",
	}}}
	fastest, _ := r.Best(place, measure, proxiesInC(), Rate())
	leanest, _ := r.Best(place, measure, proxiesInC(), CPU())
	p50 := Metric{"p50", func(s Sample) float64 { return s.P50 }, false}
	p999 := Metric{"p99.9", func(s Sample) float64 { return s.P999 }, false}
	for _, c := range r.Contestants(place) {
		medianRate := r.Median(place, measure, c, Rate())
		if medianRate.N == 0 && r.failed(place, measure, c) == "" {
			continue
		}
		t.rows = append(t.rows, []string{
			c, figure(medianRate.Median),
			r.Ratio(place, measure, c, Direct, Rate()).String(),
			r.Ratio(place, measure, c, Plain, Rate()).String(),
			r.Ratio(place, measure, c, fastest, Rate()).String(),
			figure(scale * r.Median(place, measure, c, CPU()).Median),
			r.Ratio(place, measure, c, Plain, CPU()).String(),
			r.Ratio(place, measure, c, leanest, CPU()).String(),
			figure(1e6 * r.Median(place, measure, c, p50).Median),
			figure(1e6 * r.Median(place, measure, c, P99()).Median),
			figure(1e6 * r.Median(place, measure, c, p999).Median),
			r.failed(place, measure, c),
		})
	}
	return t
}

// failed says how many connections broke and in how many rounds there is no figure.
func (r *Result) failed(place Place, measure, contestant string) string {
	conns, rounds, why := 0, 0, ""
	for _, s := range r.Samples {
		if s.Place == place && s.Measure == measure && s.Contestant == contestant {
			conns += s.Failed
			if s.Error != "" {
				rounds++
				why = s.Error
			}
		}
	}
	switch {
	case rounds > 0:
		why, _, _ = strings.Cut(why, "\n") // one cell of a table
		return fmt.Sprintf("%d rounds: %s", rounds, strings.ReplaceAll(why, "|", "/"))
	case conns > 0:
		return fmt.Sprint(conns)
	}
	return ""
}

// figure has three digits that count.
func figure(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func (r *Result) idleTable() textTable {
	t := textTable{title: "**Idle connections**, of a fresh process with 20,000 descriptors; for each connection", rows: [][]string{{
		"contestant", "connections", "held", "user KiB", "socket buffers, all ends, KiB", "descriptors", "ends of pipes",
		"more than descriptors allow",
	}}}
	for _, i := range r.Idle {
		overrun := ""
		if o := i.Overrun; o != nil {
			overrun = fmt.Sprintf("%d held", o.Held)
			if !o.Survived {
				overrun += ", died"
			} else if !o.Recovered {
				overrun += ", did not recover"
			}
		}
		if i.Error != "" {
			t.rows = append(t.rows, []string{i.Contestant, fmt.Sprint(i.Conns), i.Error, "", "", "", "", overrun})
			continue
		}
		t.rows = append(t.rows, []string{
			i.Contestant, fmt.Sprint(i.Conns), fmt.Sprint(i.Held), fmt.Sprintf("%.2f", i.Memory/1024),
			fmt.Sprintf("%.2f", i.Sockets/1024), fmt.Sprintf("%.2f", i.Descriptors), fmt.Sprintf("%.2f", i.Pipes), overrun,
		})
	}
	return t
}

func (r *Result) startTable() textTable {
	t := textTable{title: "**Start and rest**, medians", rows: [][]string{{"contestant", "ms to the first exchange", "MiB idle", "% of a core idle"}}}
	var names []string
	by := map[string][3][]float64{}
	for _, s := range r.Starts {
		if _, ok := by[s.Contestant]; !ok {
			names = append(names, s.Contestant)
		}
		f := by[s.Contestant]
		for i, v := range []float64{s.Ready * 1e3, s.RSS / (1 << 20), s.CPU * 100} {
			f[i] = append(f[i], v)
		}
		by[s.Contestant] = f
	}
	for _, name := range names {
		row := []string{name}
		for _, values := range by[name] {
			row = append(row, figure(SpreadOf(values).Median))
		}
		t.rows = append(t.rows, row)
	}
	return t
}
