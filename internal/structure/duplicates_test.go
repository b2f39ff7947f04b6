package structure

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// equalLines is how many lines in a row may not stand in product code twice.
const equalLines = 8

const duplicateReason = "what is said twice is mended once: give it one home, and a name"

// TestNothingIsWrittenTwice: no run of equalLines lines of product code, which is every Go file
// of the tree but tests, stands in another place, too. A line is its tokens: neither comments
// nor how it is spaced count, and these lines are passed over as if they were not there: the
// package clause, imports, blank lines, comments, and those with nothing but brackets, commas
// and semicolons. Two runs in one file do not overlap.
func TestNothingIsWrittenTwice(t *testing.T) {
	type place struct {
		file *sourceFile
		at   int // of file.lines
	}
	seen := map[[equalLines]string]place{}
	for _, file := range product(t) {
		lines, end := file.lines(t), 0
		for at := 0; at+equalLines <= len(lines); at++ {
			var run [equalLines]string
			for i := range run {
				run[i] = lines[at+i].text
			}
			first, again := seen[run]
			switch {
			case !again:
				seen[run] = place{file, at}
			case first.file == file && at < first.at+equalLines:
			case at >= end: // else it is the rest of a run that was told of
				end = at + equalLines
				t.Errorf("%s:%d is as %s:%d\n%s", file.path, lines[at].number, first.file.path, first.file.lines(t)[first.at].number, duplicateReason)
			}
		}
	}
}

// sourceFile is a Go file of the tree that is no test.
type sourceFile struct {
	path   string // in the tree
	folder string // likewise
	text   []byte
	tree   *ast.File
	files  *token.FileSet
	read   []sourceLine
}

type sourceLine struct {
	number int
	text   string
}

// product reads the product code.
func product(t *testing.T) []*sourceFile {
	t.Helper()
	top := root(t)
	var all []*sourceFile
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != top && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		f := &sourceFile{files: token.NewFileSet()}
		if f.path, err = filepath.Rel(top, path); err != nil {
			return err
		}
		f.path = filepath.ToSlash(f.path)
		f.folder = filepath.ToSlash(filepath.Dir(f.path))
		if f.text, err = os.ReadFile(path); err != nil {
			return err
		}
		if f.tree, err = parser.ParseFile(f.files, path, f.text, parser.SkipObjectResolution|parser.ParseComments); err != nil {
			return err
		}
		all = append(all, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("no Go file under %s", top)
	}
	return all
}

// lines are those of a file that count as the same or as others.
func (f *sourceFile) lines(t *testing.T) []sourceLine {
	t.Helper()
	if f.read != nil {
		return f.read
	}
	skipped := func(line int) bool { return line <= f.line(f.tree.Name.End()) }
	for _, d := range f.tree.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT {
			end := f.line(g.End())
			skipped = func(line int) bool { return line <= end }
		}
	}
	var s scanner.Scanner
	files := token.NewFileSet()
	file := files.AddFile(f.path, -1, len(f.text))
	s.Init(file, f.text, func(at token.Position, message string) { t.Errorf("%s: %s", at, message) }, 0)
	f.read = []sourceLine{}
	for {
		at, kind, literal := s.Scan()
		if kind == token.EOF {
			break
		}
		if kind == token.SEMICOLON && literal == "\n" {
			continue
		}
		if literal == "" {
			literal = kind.String()
		}
		number := file.Line(at)
		if skipped(number) {
			continue
		}
		for i, part := range strings.Split(literal, "\n") { // a string may have lines of its own
			f.addToken(number+i, part)
		}
	}
	counted := f.read[:0]
	for _, l := range f.read {
		if strings.Trim(l.text, "{}()[],; ") != "" {
			counted = append(counted, l)
		}
	}
	f.read = counted
	return counted
}

func (f *sourceFile) addToken(number int, text string) {
	if n := len(f.read); n > 0 && f.read[n-1].number == number {
		f.read[n-1].text += " " + text
		return
	}
	f.read = append(f.read, sourceLine{number, text})
}

func (f *sourceFile) line(at token.Pos) int { return f.files.Position(at).Line }

func (f *sourceFile) String() string { return fmt.Sprintf("%s (%d lines)", f.path, len(f.read)) }
