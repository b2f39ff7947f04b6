package lint

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// instruction is one instruction of a Dockerfile: its word, in capitals, and what stands behind it, of
// which lines that a backslash continues are one text.
type instruction struct {
	word string
	at   spot
	text string
	// pieces say where the text comes from: each from its start on up to the next one's. Their
	// starts grow.
	pieces []piece
	last   struct { // what spotOf was asked last
		offset int
		at     spot
	}
}

// piece is a part of an instruction's text that stands in one line.
type piece struct {
	start int
	at    spot
}

// pieceOf is the number of the piece that the byte of the text at offset is in.
func (i *instruction) pieceOf(offset int) int {
	return max(0, sort.Search(len(i.pieces), func(n int) bool { return i.pieces[n].start > offset })-1)
}

// spotOf is where the byte of the text at offset stands. Questions in the order of the text take a time
// that is linear in it, in all.
func (i *instruction) spotOf(offset int) spot {
	p := i.pieces[i.pieceOf(offset)]
	start, at := p.start, p.at
	if i.last.offset >= start && i.last.offset <= offset && i.last.at.line == at.line {
		start, at = i.last.offset, i.last.at
	}
	at.column += utf8.RuneCountInString(i.text[start:min(offset, len(i.text))])
	i.last.offset, i.last.at = offset, at
	return at
}

// oneLine reports whether the bytes of the text from start to end stand in one line.
func (i *instruction) oneLine(start, end int) bool {
	return i.pieceOf(start) == i.pieceOf(max(start, end-1))
}

// dockerfileReader splits a Dockerfile into instructions, by the rules of Docker's reference, "Dockerfile
// reference": parser directives, comments, continued lines, here-documents.
type dockerfileReader struct {
	lines  []string
	number int // of lines that were read
	escape byte
}

func newDockerfileReader(content []byte) *dockerfileReader {
	text := strings.ReplaceAll(strings.TrimPrefix(string(content), "\ufeff"), "\r\n", "\n")
	r := &dockerfileReader{lines: strings.Split(text, "\n"), escape: '\\'}
	for _, line := range r.lines { // directives come first, before any other comment
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		name, value, found := strings.Cut(comment, "=")
		if !ok || !found {
			break
		}
		if strings.EqualFold(strings.TrimSpace(name), "escape") && strings.TrimSpace(value) == "`" {
			r.escape = '`'
		}
	}
	return r
}

// next is the next instruction; ok is false at the end.
func (r *dockerfileReader) next() (i instruction, ok bool) {
	var text strings.Builder
	for r.number < len(r.lines) {
		line := r.lines[r.number]
		r.number++
		trimmed := strings.TrimLeft(line, " \t")
		if trimmed == "" || trimmed[0] == '#' {
			continue // inside an instruction, too
		}
		column := 1
		if !ok {
			column += len(line) - len(trimmed)
			line, ok = trimmed, true
			i.at = spot{r.number, column}
		}
		body, goesOn := r.continued(line)
		i.pieces = append(i.pieces, piece{text.Len(), spot{r.number, column}})
		text.WriteString(body)
		if !goesOn {
			break
		}
	}
	i.text = text.String()
	return i, ok
}

// continued is line without the escape at its end that has the next line belong to it.
func (r *dockerfileReader) continued(line string) (body string, goesOn bool) {
	trimmed := strings.TrimRight(line, " \t")
	n := len(trimmed) - 1
	if n < 0 || trimmed[n] != r.escape || n > 0 && trimmed[n-1] == r.escape {
		return line, false
	}
	return trimmed[:n], true
}

// skipHere passes over the here-documents that i begins, and returns the name of the one that has no
// end.
func (r *dockerfileReader) skipHere(i *instruction) (open string) {
	for _, w := range splitWords(i.text, r.escape) {
		name, found := strings.CutPrefix(strings.TrimLeft(i.text[w.start:w.end], "0123456789"), "<<")
		if !found {
			continue
		}
		name, tabs := strings.CutPrefix(name, "-")
		if name = strings.Trim(name, `"'`); name == "" || strings.ContainsAny(name, "<>|&;()") {
			continue
		}
		for ended := false; !ended; r.number++ {
			if r.number >= len(r.lines) {
				return name
			}
			line := r.lines[r.number]
			if tabs {
				line = strings.TrimLeft(line, "\t")
			}
			ended = line == name
		}
	}
	return ""
}

// buildStage is a stage of a Dockerfile.
type buildStage struct {
	name string // "" without one
	at   spot
	// base is what it is FROM, as it is written; from is the number of the stage that this is, -1
	// for an image.
	base         string
	from         int
	instructions []instruction
}

// stageReader reads the stage of a Dockerfile that is built, with the stages that it is made from.
type stageReader struct {
	*linter
	escape byte
}

func (l *stageReader) read(content []byte) error {
	arguments := newVariables(nil, maxExpanded)
	stages, err := l.stages(content, arguments)
	if err != nil {
		return err
	}
	built, err := l.stage(stages)
	if err != nil {
		return err
	}
	var chain []*buildStage // the last of which comes first
	for n := built; n >= 0; n = stages[n].from {
		chain = append(chain, stages[n])
	}
	root := chain[len(chain)-1]
	d := &declarant{name: stages[built].name, at: stages[built].at, overImage: root.base != "scratch"}
	vars := newVariables(arguments, arguments.left)
	vars.inherits = d.overImage
	for n := len(chain) - 1; n >= 0; n-- {
		vars.nextStage()
		labels, env := len(d.labels), len(d.env)
		for i := range chain[n].instructions {
			l.instruction(d, &chain[n].instructions[i], vars)
		}
		l.twice(d, d.labels[labels:], binding.LabelOrigin)
		l.twice(d, d.env[env:], binding.VariableOrigin)
	}
	l.nearMisses(d)
	l.judge(d)
	l.served(d, d.serves)
	return nil
}

// stages splits content into stages. What its first ARGs say becomes arguments.
func (l *stageReader) stages(content []byte, arguments *variables) ([]*buildStage, error) {
	const fix = "a Dockerfile begins with FROM IMAGE"
	var stages []*buildStage
	names := map[string]int{}
	r := newDockerfileReader(content)
	for {
		i, ok := r.next()
		if !ok {
			break
		}
		i.takeWord()
		switch i.word {
		case "RUN", "COPY", "ADD":
			if open := r.skipHere(&i); open != "" {
				return nil, l.unreadable(i.at, "write "+shorten.Text(open, maxShown)+" on a line of its own where it ends", "the here-document %q has no end", shorten.Text(open, maxShown))
			}
			continue
		case "ARG":
			if len(stages) == 0 {
				for _, p := range l.pairs(nil, &i, r.escape, arguments) {
					arguments.argument(p)
				}
				continue
			}
		case "FROM":
			if len(stages) >= maxStages {
				return nil, l.unreadable(i.at, "split the file", "a Dockerfile of more than %d stages", maxStages)
			}
			s := &buildStage{at: i.at, from: -1}
			s.read(i.text, r.escape, arguments)
			if s.base == "" {
				return nil, l.unreadable(i.at, fix, "FROM without an image")
			}
			if n, ok := names[strings.ToLower(s.base)]; ok {
				s.from = n
			}
			if s.name != "" {
				names[strings.ToLower(s.name)] = len(stages)
			}
			stages = append(stages, s)
			continue
		}
		if len(stages) == 0 {
			return nil, l.unreadable(i.at, fix, "%q stands before the first FROM", shorten.Text(i.word, maxShown))
		}
		last := stages[len(stages)-1]
		last.instructions = append(last.instructions, i)
	}
	if len(stages) == 0 {
		return nil, l.unreadable(spot{1, 1}, fix, "no FROM")
	}
	l.escape = r.escape
	return stages, nil
}

// takeWord moves the first word of the text to i.word, and leaves blanks in its place, so that the
// pieces hold.
func (i *instruction) takeWord() {
	end := strings.IndexAny(i.text, " \t")
	if end < 0 {
		end = len(i.text)
	}
	i.word = strings.ToUpper(i.text[:end])
	i.text = strings.Repeat(" ", end) + i.text[end:]
}

// read reads [--platform=P] IMAGE [AS NAME].
func (s *buildStage) read(text string, escape byte, arguments *variables) {
	words := strings.Fields(text)
	for len(words) > 0 && strings.HasPrefix(words[0], "--") {
		words = words[1:]
	}
	if len(words) == 0 {
		return
	}
	base, _ := arguments.expand(words[0], escape)
	s.base = base.text
	if base.unknown != "" {
		s.base = words[0]
	}
	if len(words) >= 3 && strings.EqualFold(words[1], "AS") {
		s.name = words[2]
	}
}

// stage is the number of the stage that is built.
func (l *stageReader) stage(stages []*buildStage) (int, error) {
	if l.Stage == "" {
		return len(stages) - 1, nil
	}
	var names []string
	for n, s := range stages {
		if strings.EqualFold(s.name, l.Stage) {
			return n, nil
		}
		names = append(names, s.name)
	}
	if n, err := strconv.Atoi(l.Stage); err == nil && n >= 0 && n < len(stages) {
		return n, nil
	}
	fix := fmt.Sprintf("give the name of a stage, or a number from 0 to %d", len(stages)-1)
	if meant := suggest.Closest(l.Stage, names); meant != "" {
		fix = "did you mean " + meant + "?"
	}
	return 0, hint.Errorf(fix, "%s has no stage %q", l.file, l.Stage)
}

// instruction takes what i says of d.
func (l *stageReader) instruction(d *declarant, i *instruction, vars *variables) {
	switch i.word {
	case "LABEL":
		d.labels = append(d.labels, l.pairs(d, i, l.escape, vars)...)
	case "ENV":
		pairs := l.pairs(d, i, l.escape, vars)
		d.env = append(d.env, pairs...)
		for _, p := range pairs { // all at once: they do not see one another
			vars.set(p)
		}
	case "ARG":
		for _, p := range l.pairs(d, i, l.escape, vars) {
			vars.argument(p)
		}
	case "EXPOSE":
		for _, word := range strings.Fields(i.text) {
			text, _ := vars.expand(word, l.escape)
			port, protocol, _ := strings.Cut(text.text, "/")
			if n, err := strconv.ParseUint(port, 10, 16); err == nil && text.unknown == "" && !strings.EqualFold(protocol, "udp") {
				d.serves = append(d.serves, servedPorts{uint16(n), uint16(n), fmt.Sprintf("port %d is exposed in line %d", n, i.at.line)})
			}
		}
	}
}
