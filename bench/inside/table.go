package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// format is how a result is written.
type format interface {
	heading(w io.Writer, level int, text string)
	paragraph(w io.Writer, text string)
	table(w io.Writer, rows [][]string) // the first row is the head
}

var (
	asText     format = text{}
	asMarkdown format = markdown{}
)

// text is for a terminal, with little of what Markdown marks.
type text struct{}

func (text) heading(w io.Writer, level int, text string) {
	fmt.Fprintf(w, "\n%s\n", text)
	if level < 3 {
		fmt.Fprintln(w, strings.Repeat("=", utf8.RuneCountInString(text)))
	}
}

func (text) paragraph(w io.Writer, text string) { fmt.Fprintln(w, text) }

func (text) table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.ReplaceAll(strings.Join(row, "\t"), "**", ""))
	}
	_ = t.Flush() // printing for people
}

type markdown struct{}

func (markdown) heading(w io.Writer, level int, text string) {
	fmt.Fprintf(w, "%s %s\n\n", strings.Repeat("#", level), text)
}

func (markdown) paragraph(w io.Writer, text string) { fmt.Fprintf(w, "%s\n\n", text) }

func (markdown) table(w io.Writer, rows [][]string) {
	for i, row := range rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintln(w, "|"+strings.Repeat(" --- |", len(row)))
		}
	}
	fmt.Fprintln(w)
}
