// Package lint reads what files declare for containers before any container is there: Compose files,
// Dockerfiles, and files of labels. File is the way in.
//
// A file's reader (compose.go, dockerfile.go, labelfile.go) turns it into declarants, containers as far
// as the file describes them, in which each label and variable knows its place. What they declare is
// read by internal/binding, as the daemon reads it: a mistake of a declaration here is the daemon's
// own, word by word (declarant.go). Beside that stand what only a file shows: names that look like
// declarations where they are none (nearmiss.go), and what the containers of one file are to each
// other (neighbours.go).
//
// Nothing but the file is read, neither other files nor the environment. So there are texts that
// cannot be known, ${REDIS} in a Compose file for one: they are said (LevelNote), not guessed.
//
// Files come from anywhere. The work is linear in their size, and bounded by bounds.go.
package lint

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver"
)

// Level is how sure it is that something is wrong.
type Level string

// The levels.
const (
	// LevelMistake is what the daemon, or the program that the file is for, does not take.
	LevelMistake Level = "mistake"
	// LevelWarning is what works otherwise than it looks, or only in some modes.
	LevelWarning Level = "warning"
	// LevelNote is what the file does not say, so that it was not checked.
	LevelNote Level = "note"
)

// Finding is one thing that is to be told of a file. Its texts may have any characters.
type Finding struct {
	File string `json:"file"`
	// Line and Column are where it is, from 1; a column counts characters, as editors do.
	Line   int   `json:"line"`
	Column int   `json:"column"`
	Level  Level `json:"level"`
	// Service is the service of Compose that it is about, or the stage of a Dockerfile; "" without one.
	Service string `json:"service,omitempty"`
	// Origin is the label or variable that it is about: "label connect.6379"; "" without one.
	Origin  string `json:"origin,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// The kinds of files.
const (
	Compose    = "compose"
	Dockerfile = "dockerfile"
	Labels     = "labels"
)

// Kinds lists them.
func Kinds() []string { return []string{Compose, Dockerfile, Labels} }

// KindOf is the kind of the file at name, by its name.
func KindOf(name string) string {
	base := strings.ToLower(filepath.Base(name))
	stem, extension, _ := strings.Cut(base, ".")
	switch {
	case stem == "dockerfile", stem == "containerfile", extension == "dockerfile", extension == "containerfile":
		return Dockerfile
	case strings.HasSuffix(base, ".yml"), strings.HasSuffix(base, ".yaml"), strings.HasSuffix(base, ".json"):
		return Compose
	}
	return Labels
}

// Options are how a file is read.
type Options struct {
	// Kind is one of Kinds.
	Kind string
	// Stage is the stage of a Dockerfile that is built, by its name or number; "" is the last.
	Stage string
	// Parse reads a target; Resolver.Parse is meant.
	Parse func(string) (resolver.Target, error)
	// Layers are what the daemon's configuration says; nil is nothing.
	Layers *binding.Layers
}

// File reads content, the file at name, and lists what is to be told of it, in its order. The error,
// which names place and hint, is that of a file that is none of the kind.
func File(name string, content []byte, o Options) ([]Finding, error) {
	l := &linter{Options: o, file: name, seen: map[Finding]bool{}}
	if len(content) > MaxFile {
		return nil, hint.Errorf("give the file that was meant", "%s has more than %d bytes", name, MaxFile)
	}
	var err error
	switch o.Kind {
	case Compose:
		err = (&composeReader{linter: l}).read(content)
	case Dockerfile:
		err = (&stageReader{linter: l}).read(content)
	case Labels:
		l.labelFile(content)
	default:
		err = unknownKind(o.Kind)
	}
	if err != nil {
		return nil, err
	}
	return l.all(), nil
}

func unknownKind(kind string) error {
	fix := "give one of " + strings.Join(Kinds(), ", ")
	if s := suggest.Closest(kind, Kinds()); s != "" {
		fix = "did you mean " + s + "?"
	}
	return hint.Errorf(fix, "there is no kind of files %q", kind)
}

// spot is a place in a file, from 1; a column counts characters.
type spot struct{ line, column int }

// linter is the reading of one file.
type linter struct {
	Options
	file  string
	found []Finding
	seen  map[Finding]bool // without their services
	more  int              // that were not kept
}

// note adds what f, which says all but the file, has to say, unless it was said of another service: two
// services may have the same lines by an anchor. Past the bound it is counted.
func (l *linter) note(at spot, f Finding) {
	f.File, f.Line, f.Column = l.file, max(1, at.line), max(1, at.column)
	f.Message, f.Hint = shorten.Text(f.Message, maxMessage), shorten.Text(f.Hint, maxMessage)
	f.Service, f.Origin = shorten.Text(f.Service, maxShown), shorten.Text(f.Origin, maxShown)
	bare := f
	bare.Service = ""
	switch {
	case l.seen[bare]:
	case len(l.found) >= maxFindings:
		l.more++
	default:
		l.seen[bare] = true
		l.found = append(l.found, f)
	}
}

// wrong adds a mistake that is no declaration's.
func (l *linter) wrong(at spot, service string, err error) {
	l.note(at, Finding{Level: LevelMistake, Service: service, Message: err.Error(), Hint: hint.Of(err)})
}

// all is what was found, in the order of the file.
func (l *linter) all() []Finding {
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if l.more > 0 {
		last := l.found[len(l.found)-1]
		l.found = append(l.found, Finding{File: l.file, Line: last.Line, Column: last.Column, Level: LevelMistake,
			Message: fmt.Sprintf("and %d more", l.more), Hint: "mend these first"})
	}
	return l.found
}

// unreadable is the error of a file that is not of its kind.
func (l *linter) unreadable(at spot, fix, format string, args ...any) error {
	return hint.Errorf(fix, "%s:%d:%d: %s", l.file, max(1, at.line), max(1, at.column), shorten.Text(fmt.Sprintf(format, args...), maxMessage))
}
