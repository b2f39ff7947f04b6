package structure

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

const hintReason = `an error may have no hint, and a line then says hint="": write hint.Attr(err)`

// TestNoLineHasAnEmptyHint: what may be empty is given to a log by hint.Attr, which leaves it out.
func TestNoLineHasAnEmptyHint(t *testing.T) {
	for _, p := range own(t) {
		for _, name := range p.GoFiles {
			eachCall(t, filepath.Join(p.Dir, name), func(at token.Position, call *ast.CallExpr) {
				if logsBareHint(call) {
					t.Errorf("%s: %s", at, hintReason)
				}
			})
		}
	}
}

// eachCall gives every call in a file of Go to look, and where it is.
func eachCall(t *testing.T, name string, look func(token.Position, *ast.CallExpr)) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, nil, 0)
	if err != nil {
		t.Error(err)
		return
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			look(files.Position(call.Pos()), call)
		}
		return true
	})
}

// logsBareHint reports whether the arguments of a call of a logger are a key hint and the
// hint of an error.
func logsBareHint(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains([]string{"Debug", "Info", "Warn", "Error", "Log", "With", "String"}, method.Sel.Name) {
		return false
	}
	for i, arg := range call.Args[:max(0, len(call.Args)-1)] {
		if types.ExprString(arg) == `"hint"` && strings.HasPrefix(types.ExprString(call.Args[i+1]), "hint.Of(") {
			return true
		}
	}
	return false
}
