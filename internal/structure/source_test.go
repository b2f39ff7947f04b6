package structure

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const commentReason = "a newcomer starts from the package comment: " +
	"it says what the package is for, in its own words, before the first line of code"

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range own(t) {
		files := p.GoFiles
		if len(files) == 0 { // a package of tests alone
			files = append(append(files, p.TestGoFiles...), p.XTestGoFiles...)
		}
		if !anyHasPackageComment(t, p.Dir, files) {
			t.Errorf("package %s has no package comment\n%s", p.folder(), commentReason)
		}
	}
}

func anyHasPackageComment(t *testing.T, dir string, files []string) bool {
	t.Helper()
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil,
			parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Errorf("%s: %v", filepath.Join(dir, name), err)
			continue
		}
		if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
			return true
		}
	}
	return false
}

const (
	maxLines   = 450
	sizeReason = "a file holds one noun and can be read in one sitting: past this size it has become two"
)

// Tests may be longer: they are tables, and read one case at a time.
func TestFilesAreShort(t *testing.T) {
	top := root(t)
	checked := 0
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != top && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		checked++
		if lines := bytes.Count(source, []byte("\n")); lines > maxLines {
			relative, _ := filepath.Rel(top, path)
			t.Errorf("%s has %d lines, more than %d\n%s", relative, lines, maxLines, sizeReason)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Fatalf("no Go file under %s", top)
	}
}
