package structure

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// pointer is a file or a folder of ours as a page names it.
	pointer = regexp.MustCompile("`((?:bench|cmd|deploy|docs|e2e|examples|findings|internal|netrules|proxy|resolver|scripts)/[A-Za-z0-9_./-]+)`")
	// made is a part of a path that stands for any name: resolver/NAME.
	made = regexp.MustCompile(`(^|/)NAME\b`)
)

// TestPagesPointToWhatIsThere: a path that a page names exists. Pages about one version, the
// decisions among them, are no exception: a file that has moved is found by nobody.
func TestPagesPointToWhatIsThere(t *testing.T) {
	top := root(t)
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md"} {
		pages, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || len(pages) == 0 {
			t.Fatalf("%s: %v, %v", pattern, pages, err)
		}
		for _, page := range pages {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range pointer.FindAllStringSubmatch(string(text), -1) {
				if made.MatchString(found[1]) {
					continue
				}
				if _, err := os.Stat(filepath.Join(top, found[1])); err != nil {
					t.Errorf("%s names %s, which is not there", page, found[1])
				}
			}
		}
	}
}

// TestRowsAreWhole: each row of a table of ARCHITECTURE.md has as many cells as the first.
func TestRowsAreWhole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	cells := 0 // of the table that the line is in
	for line := range strings.Lines(string(text)) {
		n := strings.Count(line, "|")
		switch {
		case !strings.HasPrefix(line, "|"):
			cells = 0
			if n > 0 && strings.HasSuffix(strings.TrimSpace(line), "|") {
				t.Errorf("a row in two lines: %s", line)
			}
		case cells == 0:
			cells = n
		case n != cells:
			t.Errorf("%d cells where others have %d: %s", n-1, cells-1, line)
		}
	}
}
