package main

import (
	"fmt"
	"io"
	"time"
)

// What an idle daemon may use with 200 containers.
const (
	mostCPU = 0.1 // percent of one processor
	mostRSS = 40  // MB, of 10⁶ bytes
)

// figures are what was measured.
type figures struct {
	n               int
	mode            string
	ready, attached time.Duration // after the start
	starting        time.Duration // CPU until all were attached
	steady          time.Duration // how long it was watched
	cpu             time.Duration // in that time
	rss             int           // KiB
	execs           int           // in that time; -1 if they were not counted
}

// percent is the CPU of the steady state, of one processor.
func (f figures) percent() float64 { return 100 * f.cpu.Seconds() / f.steady.Seconds() }

// megabytes is the memory, in 10⁶ bytes.
func (f figures) megabytes() float64 { return float64(f.rss) * 1024 / 1e6 }

// rows are the names of the figures and the figures.
func (f figures) rows() [][2]string {
	rows := [][2]string{
		{"containers, mode " + f.mode, fmt.Sprint(f.n)},
		{"ready after", f.ready.Round(time.Millisecond).String()},
		{"all attached after", f.attached.Round(10 * time.Millisecond).String()},
		{"CPU until then", f.starting.String()},
		{"steady state, CPU", fmt.Sprintf("%.3f%% of a processor (%s in %s); under %g%%: %s", f.percent(), f.cpu, f.steady, mostCPU, verdict(f.percent() < mostCPU))},
		{"steady state, RSS", fmt.Sprintf("%.1f MB; under %d MB: %s", f.megabytes(), mostRSS, verdict(f.megabytes() < mostRSS))},
	}
	if f.execs >= 0 {
		rows = append(rows, [2]string{"steady state, execs", fmt.Sprintf("%.1f a minute", float64(f.execs)/f.steady.Minutes())})
	}
	return rows
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "not met"
}

func (f figures) print(w io.Writer) {
	for _, row := range f.rows() {
		fmt.Fprintf(w, "%-26s %s\n", row[0], row[1])
	}
}

func (f figures) printMarkdown(w io.Writer) {
	fmt.Fprint(w, "## An idle daemon\n\n| | |\n| --- | --- |\n")
	for _, row := range f.rows() {
		fmt.Fprintf(w, "| %s | %s |\n", row[0], row[1])
	}
	fmt.Fprintln(w)
}
