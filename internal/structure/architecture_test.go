package structure

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what rooms take into ARCHITECTURE.md")

const (
	roomsBegin = "<!-- rooms -->\n"
	roomsEnd   = "<!-- end of rooms -->\n"

	roomReason = "a newcomer finds the room for a change in ARCHITECTURE.md's table: give each package a row, and no row to what is gone"
	takeReason = "what a room takes is what a change of it may break: go test ./internal/structure -update writes that column"
)

// wordRooms are packages of words and guards that any room may take: named in every row they
// would say nothing.
var wordRooms = []string{"internal/hint", "internal/selfconnect", "internal/shorten", "internal/suggest"}

// gathered are folders whose packages below have one row together: programs of tests and benches.
var gathered = []string{"bench", "e2e", "examples/demo"}

// TestArchitectureHasEveryRoom: a row for each package, none for what is not there, and in each
// what the package imports of ours.
func TestArchitectureHasEveryRoom(t *testing.T) {
	file := filepath.Join(root(t), "ARCHITECTURE.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), roomsBegin)
	table, after, ok2 := strings.Cut(rest, roomsEnd)
	if !ok1 || !ok2 {
		t.Fatalf("ARCHITECTURE.md lacks the lines around its table of rooms: %q and %q", roomsBegin, roomsEnd)
	}
	packages := map[string]*listed{}
	for _, p := range own(t) {
		if folder := room(p.folder()); !slices.Contains(gathered, folder) {
			packages[folder] = p
		} else {
			packages[folder] = nil // what programs take nothing depends on
		}
	}
	var b strings.Builder
	seen := map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 || !strings.HasPrefix(line, "| `") {
			b.WriteString(line)
			continue
		}
		folder := strings.Trim(cells[1], " `")
		p, there := packages[folder]
		if !there {
			t.Errorf("ARCHITECTURE.md has a row for %s, which is no package\n%s", folder, roomReason)
		}
		if seen[folder] {
			t.Errorf("ARCHITECTURE.md has two rows for %s", folder)
		}
		seen[folder] = true
		cells[4] = " " + takes(p)
		fmt.Fprintln(&b, strings.Join(cells, "|"))
	}
	for folder := range packages {
		if !seen[folder] {
			t.Errorf("ARCHITECTURE.md has no row for %s\n%s", folder, roomReason)
		}
	}
	if want := b.String(); want != table {
		if *update {
			if err := os.WriteFile(file, []byte(before+roomsBegin+want+roomsEnd+after), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		for i, line := range strings.Split(want, "\n") {
			if had := strings.Split(table, "\n"); i < len(had) && had[i] != line {
				t.Errorf("ARCHITECTURE.md says\n%s\nand it is\n%s\n%s", had[i], line, takeReason)
			}
		}
	}
}

// room is the folder whose row is folder's.
func room(folder string) string {
	for _, g := range gathered {
		if folder == g || strings.HasPrefix(folder, g+"/") {
			return g
		}
	}
	return folder
}

// takes is a cell: what p imports of ours.
func takes(p *listed) string {
	if p == nil {
		return ""
	}
	var names []string
	for _, imported := range p.Imports {
		folder, ok := strings.CutPrefix(imported, module+"/")
		if ok && !slices.Contains(wordRooms, folder) {
			names = append(names, strings.TrimPrefix(folder, "internal/"))
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return strings.Join(names, ", ") + " "
}

// source is a Go file as a page names it, with its folder or, where the sentence has said that,
// without.
var source = regexp.MustCompile("`([a-z0-9_/*]+\\.go)`")

// TestFilesThatPagesNameAreThere: ARCHITECTURE.md and the decisions lead to files that are there.
func TestFilesThatPagesNameAreThere(t *testing.T) {
	top := root(t)
	names := map[string]bool{}
	if err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && name != top && strings.HasPrefix(entry.Name(), ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, ".go") {
			names[entry.Name()] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	decisions, _ := filepath.Glob(filepath.Join(top, "docs", "decisions", "*.md"))
	for _, page := range append(decisions, filepath.Join(top, "ARCHITECTURE.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range source.FindAllStringSubmatch(string(text), -1) {
			name, there := match[1], false
			if strings.Contains(name, "/") {
				found, _ := filepath.Glob(filepath.Join(top, name))
				there = len(found) > 0
			} else {
				for known := range names {
					ok, _ := path.Match(name, known)
					there = there || ok
				}
			}
			if !there {
				t.Errorf("%s names %s, which is not there", filepath.Base(page), name)
			}
		}
	}
}

const decisionReason = "a decision says what was decided, why, and what would change it, so that it can be looked at again: docs/decisions/README.md"

// TestDecisionsAreWhole: each has a number of its own, its parts, and a row of the index.
func TestDecisionsAreWhole(t *testing.T) {
	folder := filepath.Join(root(t), "docs", "decisions")
	index, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(folder, "[0-9]*.md"))
	if len(files) == 0 {
		t.Fatal("there is no decision")
	}
	taken := map[string]string{}
	for _, file := range files {
		name := filepath.Base(file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		number, _, _ := strings.Cut(name, "-")
		if other := taken[number]; other != "" {
			t.Errorf("%s and %s have the same number\n%s", other, name, decisionReason)
		}
		taken[number] = name
		heading, _, _ := strings.Cut(string(text), "\n")
		title, ok := strings.CutPrefix(heading, "# "+number+". ")
		if !ok || len(number) != 4 {
			t.Errorf("%s begins with %q, not with # NNNN. and a title\n%s", name, heading, decisionReason)
		}
		for _, part := range []string{"## Decided", "## Why", "## What would change it"} {
			if _, rest, ok := strings.Cut(string(text), "\n"+part+"\n\n"); !ok || strings.HasPrefix(rest, "#") {
				t.Errorf("%s says nothing under %q\n%s", name, part, decisionReason)
			}
		}
		if row := fmt.Sprintf("| [%s](%s) | %s |", number, name, title); !strings.Contains(string(index), row) {
			t.Errorf("the index of decisions lacks %s", row)
		}
	}
}
