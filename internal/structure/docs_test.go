package structure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// named is a test as docs/limits.md and docs/security.md name it: with its package's folder,
// or without one where it is of e2e. A subtest stands behind a slash.
var named = regexp.MustCompile("`(?:([a-z]+)\\.)?((?:Test|Fuzz)[A-Za-z0-9]+)(?:/[a-z_]+)?`")

const namedReason = "a bound, or a cell of the matrix, is a claim: the page names the test that holds it"

// TestTestsThatDocsNameAreThere keeps the pages about trust and bounds in step with the tests.
func TestTestsThatDocsNameAreThere(t *testing.T) {
	tests := testsByFolder(t)
	pages := []string{"docs/limits.md", "docs/security.md"}
	decisions, _ := filepath.Glob(filepath.Join(root(t), "docs", "decisions", "*.md"))
	for _, page := range decisions {
		pages = append(pages, "docs/decisions/"+filepath.Base(page))
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(root(t), page))
		if err != nil {
			t.Fatal(err)
		}
		found := named.FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 && path.Dir(page) == "docs" {
			t.Errorf("%s names no test\n%s", page, namedReason)
		}
		for _, match := range found {
			folder, name := match[1], match[2]
			if folder == "" && page == "docs/security.md" {
				folder = "e2e"
			}
			if !has(tests[name], folder) {
				t.Errorf("%s names %s, which is no test of %q (%v)\n%s", page, name, folder, tests[name], namedReason)
			}
		}
	}
}

// has reports whether a package of folders is called name; "" is any.
func has(folders []string, name string) bool {
	for _, folder := range folders {
		if name == "" || path.Base(folder) == name || name == "cmd" && strings.HasPrefix(folder, "cmd/") {
			return true
		}
	}
	return false
}

// testsByFolder lists the folders in which each test function is, by its name.
func testsByFolder(t *testing.T) map[string][]string {
	t.Helper()
	top, tests := root(t), map[string][]string{}
	err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != top && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(top, filepath.Dir(name))
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				tests[f.Name.Name] = append(tests[f.Name.Name], filepath.ToSlash(folder))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s:#]*)(?:#([^)\s]*))?\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	mark    = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
)

// pagesOf are all pages of the repository, by their paths in it.
func pagesOf(t *testing.T) []string {
	t.Helper()
	pages := []string{"README.md", "ARCHITECTURE.md", "examples/demo/README.md"}
	top := root(t)
	err := filepath.WalkDir(filepath.Join(top, "docs"), func(name string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".md") {
			var page string
			page, err = filepath.Rel(top, name)
			pages = append(pages, filepath.ToSlash(page))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// linksOf are where a page leads within the repository: the path of a file, and its anchor.
func linksOf(t *testing.T, page string) [][3]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), page))
	if err != nil {
		t.Fatal(err)
	}
	var links [][3]string
	for _, match := range link.FindAllStringSubmatch(string(text), -1) {
		to := path.Join(path.Dir(page), match[1])
		if match[1] == "" {
			to = page
		}
		links = append(links, [3]string{match[0], to, match[2]})
	}
	return links
}

// TestLinksOfPagesLead: to a file that is there, and to a heading of it.
func TestLinksOfPagesLead(t *testing.T) {
	for _, page := range pagesOf(t) {
		for _, l := range linksOf(t, page) {
			to := filepath.Join(root(t), l[1])
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s leads nowhere", page, l[0])
			} else if l[2] != "" && !anchorsOf(t, to)[l[2]] {
				t.Errorf("%s: %s leads to no heading", page, l[0])
			}
		}
	}
}

const reachReason = "a page that no link leads to is read by nobody: give it a row in docs/README.md"

// TestEveryPageIsReached: by links from the README.
func TestEveryPageIsReached(t *testing.T) {
	pages := pagesOf(t)
	reached, next := map[string]bool{}, []string{"README.md"}
	for len(next) > 0 {
		page := next[0]
		next = next[1:]
		if reached[page] || !slices.Contains(pages, page) { // TestLinksOfPagesLead tells of what is not there
			continue
		}
		reached[page] = true
		for _, l := range linksOf(t, page) {
			next = append(next, l[1])
		}
	}
	for _, page := range pages {
		if strings.HasPrefix(page, "docs/") && !reached[page] {
			t.Errorf("no link leads from the README to %s\n%s", page, reachReason)
		}
	}
}

const shortReason = "it is read from top to bottom by those who do not know the project yet: what is of one subject goes to its page under docs"

// TestFirstPagesAreShort bounds what a stranger reads first.
func TestFirstPagesAreShort(t *testing.T) {
	for page, most := range map[string]int{"README.md": 240, "ARCHITECTURE.md": 300} {
		text, err := os.ReadFile(filepath.Join(root(t), page))
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(text), "\n"); lines > most {
			t.Errorf("%s has %d lines, and is to have %d at most\n%s", page, lines, most, shortReason)
		}
	}
}

// anchorsOf are the headings of a page as links name them.
func anchorsOf(t *testing.T, page string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(string(text), -1) {
		anchors[strings.ReplaceAll(mark.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-")] = true
	}
	return anchors
}
