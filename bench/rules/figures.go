package main

import (
	"fmt"
	"io"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// What an idle daemon may use with 200 containers.
const (
	mostCPU = 0.1 // percent of one processor
	mostRSS = 40  // MB, of 10⁶ bytes
)

// measuredDaemon is a daemon that is measured.
type measuredDaemon struct {
	name, binary string
	args         []string

	starts  []start // one for each round
	steady  *steady // nil if it was not watched
	started *execs  // nil if they were not counted
}

// start is what it took until all containers were attached.
type start struct {
	ready, attached time.Duration // after the start
	cpu             time.Duration
	rss             int           // KiB, then
	stopped         time.Duration // how long it then took to take all down
}

// steady is what it takes while nothing happens.
type steady struct {
	lasted, cpu time.Duration
	rss         int // KiB
}

// percent is the CPU of one processor.
func (s *steady) percent() float64 { return 100 * s.cpu.Seconds() / s.lasted.Seconds() }

func megabytes(kib int) float64 { return float64(kib) * 1024 / 1e6 }

// rulesResult is all that was measured.
type rulesResult struct {
	n    int
	mode string
	all  []*measuredDaemon // the first is the one that others are compared with
}

// rows are a head and the figures.
func (r *rulesResult) rows() [][]string {
	head := []string{fmt.Sprintf("%d containers, mode %s", r.n, r.mode)}
	for _, c := range r.all {
		head = append(head, c.name)
	}
	rows := [][]string{head}
	for _, f := range []struct {
		name string
		of   func(start) float64
	}{
		{"ready after, ms", func(s start) float64 { return ms(s.ready) }},
		{"all attached after, ms", func(s start) float64 { return ms(s.attached) }},
		{"CPU until then, ms", func(s start) float64 { return ms(s.cpu) }},
		{"RSS then, MB", func(s start) float64 { return megabytes(s.rss) }},
		{"stopped within, ms", func(s start) float64 { return ms(s.stopped) }},
	} {
		rows = append(rows, r.compared(f.name, f.of))
	}
	row := func(name string, text func(c *measuredDaemon) string) {
		one := []string{name}
		for _, c := range r.all {
			one = append(one, text(c))
		}
		rows = append(rows, one)
	}
	if r.all[0].started != nil {
		row("programs started until then", func(c *measuredDaemon) string { return count(c.started.start) })
	}
	if r.all[0].steady != nil {
		row("steady state, CPU", func(c *measuredDaemon) string {
			s := c.steady
			return fmt.Sprintf("%.3f%% of a processor (%s in %s); under %g%%: %s", s.percent(), s.cpu, s.lasted, mostCPU, verdict(s.percent() < mostCPU))
		})
		row("steady state, RSS", func(c *measuredDaemon) string {
			mb := megabytes(c.steady.rss)
			return fmt.Sprintf("%.1f MB; under %d MB: %s", mb, mostRSS, verdict(mb < mostRSS))
		})
	}
	if r.all[0].started != nil && r.all[0].started.lasted > 0 {
		row("steady state, programs started", func(c *measuredDaemon) string {
			return fmt.Sprintf("%s in %s", count(c.started.steady), c.started.lasted)
		})
	}
	return rows
}

// compared is a row with the median of each contestant, in brackets the middle half, and how many
// times the first one's that is: the median of what each round says.
func (r *rulesResult) compared(name string, of func(start) float64) []string {
	row := []string{name}
	for i, c := range r.all {
		var own, ratios []float64
		for round, s := range c.starts {
			own = append(own, of(s))
			ratios = append(ratios, of(s)/of(r.all[0].starts[round]))
		}
		s := report.SpreadOf(own)
		text := fmt.Sprintf("%.0f", s.Median)
		if len(own) > 1 {
			text += fmt.Sprintf(" (%.0f–%.0f)", s.P25, s.P75)
		}
		if i > 0 {
			text += fmt.Sprintf(", × %.2f", report.SpreadOf(ratios).Median)
		}
		row = append(row, text)
	}
	return row
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "not met"
}

func (r *rulesResult) print(w io.Writer) {
	for _, row := range r.rows() {
		fmt.Fprintf(w, "%-32s", row[0])
		for _, cell := range row[1:] {
			fmt.Fprintf(w, " %-32s", cell)
		}
		fmt.Fprintln(w)
	}
}

func (r *rulesResult) printMarkdown(w io.Writer) {
	fmt.Fprint(w, "## An idle daemon\n\n")
	for i, row := range r.rows() {
		for _, cell := range row {
			fmt.Fprintf(w, "| %s ", cell)
		}
		fmt.Fprintln(w, "|")
		if i > 0 {
			continue
		}
		for range row {
			fmt.Fprint(w, "| --- ")
		}
		fmt.Fprintln(w, "|")
	}
	fmt.Fprintln(w)
}
