package main

import (
	"fmt"
	"os"
	"strings"
)

// cell is what a client noticed of an event, by path.
type cell map[proxyKind]requestCounts

type row struct {
	driver, version string
	cells           []cell
}

type driverReport struct {
	rows    []row
	missing []string
}

// text is a row of the table: of each event, how many of twenty requests failed, and in how many
// milliseconds the slowest ended, if that was long.
func (r *row) text() string {
	line := "| " + strings.TrimSpace(r.driver+" "+r.version)
	for i, c := range r.cells {
		var parts []string
		for _, p := range events[i].paths {
			o, ok := c[p]
			switch {
			case !ok:
				parts = append(parts, "?")
			case o.Slowest >= 1000:
				parts = append(parts, fmt.Sprintf("%d (%.1f s)", o.Failed, float64(o.Slowest)/1000))
			default:
				parts = append(parts, fmt.Sprint(o.Failed))
			}
		}
		line += " | " + strings.Join(parts, " / ")
	}
	return line + " |"
}

func (r *driverReport) table() string {
	var b strings.Builder
	b.WriteString("| driver |")
	for _, e := range events {
		var paths []string
		for _, p := range e.paths {
			paths = append(paths, string(p))
		}
		fmt.Fprintf(&b, " %s: %s |", e.name, strings.Join(paths, " / "))
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(events)) + "\n")
	for _, row := range r.rows {
		b.WriteString(row.text() + "\n")
	}
	for _, m := range r.missing {
		fmt.Fprintf(&b, "\nNot measured: %s.\n", m)
	}
	return b.String()
}

const (
	begins = "<!-- drivers: made by make drivers -->\n"
	ends   = "<!-- end of drivers -->\n"
)

// write puts the table into a page, between its marks.
func write(path, table string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), begins)
	_, after, ended := strings.Cut(rest, ends)
	if !ok || !ended {
		return fmt.Errorf("%s has no place for the table", path)
	}
	return os.WriteFile(path, []byte(before+begins+"\n"+table+"\n"+ends+after), 0o644) //nolint:gosec // a page
}
