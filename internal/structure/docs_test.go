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
	for _, page := range []string{"docs/limits.md", "docs/security.md"} {
		text, err := os.ReadFile(filepath.Join(root(t), page))
		if err != nil {
			t.Fatal(err)
		}
		found := named.FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 {
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

// TestLinksOfPagesLead: to a file that is there, and to a heading of it.
func TestLinksOfPagesLead(t *testing.T) {
	pages, _ := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	for _, page := range append(pages, filepath.Join(root(t), "README.md"), filepath.Join(root(t), "ARCHITECTURE.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(string(text), -1) {
			to, anchor := filepath.Join(filepath.Dir(page), match[1]), match[2]
			if match[1] == "" {
				to = page
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s leads nowhere", filepath.Base(page), match[0])
			} else if anchor != "" && !anchorsOf(t, to)[anchor] {
				t.Errorf("%s: %s leads to no heading", filepath.Base(page), match[0])
			}
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
