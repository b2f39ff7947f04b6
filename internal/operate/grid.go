package operate

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/printable"
)

// Style is how things are shown.
type Style struct {
	Width int  // of a line, in characters; 0 for any
	Color bool // by the escape sequences of ECMA-48
	All   bool // every row, however many
}

// StyleFor is the style for what w is: only a terminal has a width, and colours unless they are not
// wanted. columns is another width, as a number, "" for none.
func StyleFor(w io.Writer, colors bool, columns string) Style {
	var s Style
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			s.Width, s.Color = int(size.Col), colors
		}
	}
	if n, err := strconv.Atoi(columns); err == nil && n > 0 {
		s.Width = n
	}
	return s
}

// tone is how bad something is.
type tone int

const (
	well tone = iota
	doubtful
	wrong
)

// paint gives text a colour.
func (s Style) paint(text string, t tone) string {
	if !s.Color || t == well || text == "" {
		return text
	}
	return map[tone]string{doubtful: "\x1b[33m", wrong: "\x1b[31m"}[t] + text + "\x1b[0m"
}

func (s Style) bold(text string) string {
	if !s.Color || text == "" {
		return text
	}
	return "\x1b[1m" + text + "\x1b[0m"
}

const (
	// mostRows is how many rows of a table are shown unless all are asked for.
	mostRows = 20
	// leastWidth is how narrow a column is made at least.
	leastWidth = 8
	// mostCell bounds what one cell shows, in characters, however wide a line may be.
	mostCell = 200
)

// gridRow is a row of a table, and how bad what it says is.
type gridRow struct {
	cells []string
	tone  tone
}

// grid is a table.
type grid struct {
	title   string
	columns []string
	rows    []gridRow
	more    int // rows that there are beside these
}

func (g *grid) add(t tone, cells ...string) { g.rows = append(g.rows, gridRow{cells, t}) }

// write writes the rows, what is wrong first, else in their order; nothing if there are none.
func (g *grid) write(w io.Writer, s Style) {
	if len(g.rows) == 0 {
		return
	}
	rows := slices.Clone(g.rows)
	slices.SortStableFunc(rows, func(a, b gridRow) int { return cmp.Compare(b.tone, a.tone) })
	if !s.All && len(rows) > mostRows {
		g.more += len(rows) - mostRows
		rows = rows[:mostRows]
	}
	widths := make([]int, len(g.columns))
	for i, title := range g.columns {
		widths[i] = utf8.RuneCountInString(title)
	}
	for _, row := range rows {
		for i := range row.cells {
			row.cells[i] = cut(printable.Text(row.cells[i]), mostCell)
			widths[i] = max(widths[i], utf8.RuneCountInString(row.cells[i]))
		}
	}
	fit(widths, s.Width)
	if g.title != "" {
		fmt.Fprintf(w, "\n%s\n", s.bold(g.title))
	}
	fmt.Fprintln(w, strings.TrimRight(line(g.columns, widths, func(text string) string { return text }), " "))
	for _, row := range rows {
		fmt.Fprintln(w, strings.TrimRight(line(row.cells, widths, func(text string) string { return s.paint(text, row.tone) }), " "))
		last := len(row.cells) - 1
		if said := row.cells[last]; row.tone != well && utf8.RuneCountInString(said) > widths[last] {
			writeBelow(w, said, s) // what is wrong is not to be guessed
		}
	}
}

// writeBelow writes a text in lines of its own, below a row that has no room for it. A line ends at a
// space where it has one, so that people can copy what a hint says.
func writeBelow(w io.Writer, text string, s Style) {
	const indent = "    "
	for rest := []rune(strings.TrimSpace(text)); len(rest) > 0; {
		n := breakAt(rest, min(len(rest), max(leastWidth, s.Width-len(indent))))
		fmt.Fprintf(w, "%s%s\n", indent, strings.TrimRight(string(rest[:n]), " "))
		rest = []rune(strings.TrimLeft(string(rest[n:]), " "))
	}
}

// breakAt is where a line of text ends that has n characters at most: at its last space, if it has one.
func breakAt(text []rune, n int) int {
	if n == len(text) {
		return n
	}
	for at := n; at > 0; at-- {
		if text[at] == ' ' {
			return at
		}
	}
	return n
}

// line is a row of cells, each in its width; the last is painted.
func line(cells []string, widths []int, paint func(string) string) string {
	var b strings.Builder
	for i, cell := range cells {
		cell = cut(cell, widths[i])
		if i == len(cells)-1 {
			b.WriteString(paint(cell))
			break
		}
		b.WriteString(cell)
		b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
	}
	return b.String()
}

// fit makes the widest columns narrower until a line has no more than width characters, if it can.
func fit(widths []int, width int) {
	if width == 0 {
		return
	}
	total := 2 * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for ; total > width; total-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= leastWidth {
			return
		}
		widths[widest]--
	}
}

// cut is text in most characters.
func cut(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:max(0, most-1)]) + "…"
}
