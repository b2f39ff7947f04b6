package structure

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const exportReason = "an exported name is a promise: without a caller but the tests of its own package nobody needs it; " +
	"write it small, or take it away with what tests it"

// uncalled are exported names that nothing but the tests of their own package uses.
var uncalled = []string{
	"internal/balance.Choice.Again",
	"internal/balance.LeastConnections", // the default, as the empty Policy is
	"internal/engines.Load",
	"internal/engines.PinnedCompose",
	"internal/option.Anyone", // the other Owner, which is the zero one
	"internal/registries.Markdown",
	"internal/registries.Nothing",
	"netrules.AsIPTables",        // likewise the zero Notation
	"proxy/pathtest.Differences", // is for readers
}

// TestExportedNamesHaveCallers: every exported function, type, variable, constant and method
// is used by product code, its own package's included, or by tests of another package. A
// method counts as used if an interface has one of its name. Fields do not count.
func TestExportedNamesHaveCallers(t *testing.T) {
	files, of := token.NewFileSet(), &packageReader{}
	packages := of.open(t, files)
	used, ofInterfaces, declared := map[string]bool{}, map[string]bool{}, map[string]token.Position{}
	for _, name := range []string{"Error", "String", "Unwrap", "Is", "As"} { // which packages fmt and errors look for
		ofInterfaces[name] = true
	}
	seen := map[*types.Package]bool{}
	for _, p := range packages {
		info := &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
		checker := types.Config{Importer: of, Error: func(err error) { t.Error(err) }}
		checked, _ := checker.Check(p.ImportPath, files, parsed(t, files, p.Dir, p.GoFiles), info)
		of.own[p.ImportPath] = checked
		for _, o := range info.Uses {
			used[nameOf(o)] = true
		}
		for id, o := range info.Defs {
			if name := nameOf(o); name != "" && id.IsExported() {
				declared[name] = files.Position(id.Pos())
			}
		}
	}
	for _, p := range of.own { // now that all is read: a package that only others have named so far is there in part
		interfaceMethods(p, seen, ofInterfaces)
	}
	named, selected := usedByTests(t)

	found := map[string]string{}
	for name, at := range declared {
		_, method, isMethod := strings.Cut(name, "#")
		switch {
		case used[name], named[name], isMethod && (ofInterfaces[method] || selected[method].others(filepath.Dir(at.Filename))):
			continue
		}
		found[strings.TrimPrefix(strings.ReplaceAll(name, "#", "."), module+"/")] = at.String() + ": has no caller"
	}
	breaches(t, exportReason, found, uncalled)
}

// packageReader imports our own packages as they were read here, and all others as the compiler
// has written them, which it has once for every version.
type packageReader struct {
	own    map[string]*types.Package
	others types.Importer
}

func (r *packageReader) Import(path string) (*types.Package, error) {
	if p := r.own[path]; p != nil {
		return p, nil
	}
	return r.others.Import(path)
}

// open lists our packages, each after those that it imports.
func (r *packageReader) open(t *testing.T, files *token.FileSet) (packages []*listed) {
	t.Helper()
	var others []string
	after := map[string]bool{}
	var add func(p *listed)
	all := all(t)
	add = func(p *listed) {
		if p == nil || after[p.ImportPath] {
			return
		}
		after[p.ImportPath] = true
		if p.folder() == "" {
			others = append(others, p.ImportPath)
			return
		}
		for _, path := range p.Imports {
			add(all[path])
		}
		if len(p.GoFiles) > 0 {
			packages = append(packages, p)
		}
	}
	for _, p := range own(t) {
		add(p)
	}

	command := exec.Command("go", append([]string{"list", "-export", "-deps", "-tags", "integration", "-f", "{{.ImportPath}} {{.Export}}"}, others...)...)
	command.Dir = root(t)
	command.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off")
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatal("go list: ", err)
	}
	exported := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exported[path] = file
	}
	r.own = map[string]*types.Package{}
	r.others = importer.ForCompiler(files, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exported[path]) })
	return packages
}

func parsed(t *testing.T, files *token.FileSet, dir string, names []string) (trees []*ast.File) {
	t.Helper()
	for _, name := range names {
		tree, err := parser.ParseFile(files, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, tree)
	}
	return trees
}

// nameOf is PATH.NAME of what is declared at the top of one of our packages, PATH.TYPE#NAME of
// a method, and "" of anything else.
func nameOf(o types.Object) string {
	if o == nil || o.Pkg() == nil || !strings.HasPrefix(o.Pkg().Path(), module) {
		return ""
	}
	if f, ok := o.(*types.Func); ok {
		if of := f.Signature().Recv(); of != nil {
			t := of.Type()
			if p, ok := t.(*types.Pointer); ok {
				t = p.Elem()
			}
			if named, ok := t.(*types.Named); ok && !types.IsInterface(t) {
				return o.Pkg().Path() + "." + named.Obj().Name() + "#" + o.Name()
			}
			return ""
		}
	}
	if o.Parent() != nil && o.Parent() != o.Pkg().Scope() || isField(o) {
		return ""
	}
	return o.Pkg().Path() + "." + o.Name()
}

func isField(o types.Object) bool {
	v, ok := o.(*types.Var)
	return ok && v.IsField()
}

// interfaceMethods adds the methods of the interfaces that a package and what it imports declare.
func interfaceMethods(p *types.Package, seen map[*types.Package]bool, methods map[string]bool) {
	if p == nil || seen[p] {
		return
	}
	seen[p] = true
	for _, name := range p.Scope().Names() {
		of, ok := p.Scope().Lookup(name).Type().Underlying().(*types.Interface)
		if _, isType := p.Scope().Lookup(name).(*types.TypeName); !ok || !isType {
			continue
		}
		for m := range of.Methods() {
			methods[m.Name()] = true
		}
	}
	for _, imported := range p.Imports() {
		interfaceMethods(imported, seen, methods)
	}
}

// folders are those in whose tests something is.
type folders map[string]bool

func (f folders) others(than string) bool {
	return len(f) > 1 || len(f) == 1 && !f[than]
}

// usedByTests reads every test of the tree, and the product code of modules of their own in it,
// which go list leaves out. named is what they name of packages, as nameOf says it, and
// selected in which folders a name follows a dot, as a method's does.
func usedByTests(t *testing.T) (named map[string]bool, selected map[string]folders) {
	t.Helper()
	named, selected = map[string]bool{}, map[string]folders{}
	top := root(t)
	err := filepath.WalkDir(top, func(name string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != top && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		case !strings.HasSuffix(name, "_test.go") && !isOfAnotherModule(top, name):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		folder := filepath.Dir(name)
		relative, err := filepath.Rel(top, folder)
		if err != nil {
			return err
		}
		own, imported := path.Join(module, filepath.ToSlash(relative)), map[string]string{}
		for _, i := range file.Imports {
			of := strings.Trim(i.Path.Value, `"`)
			as := path.Base(of)
			if i.Name != nil {
				as = i.Name.Name
			}
			imported[as] = of
		}
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && imported[x.Name] != "" && imported[x.Name] != own {
				named[imported[x.Name]+"."+s.Sel.Name] = true
			}
			if selected[s.Sel.Name] == nil {
				selected[s.Sel.Name] = folders{}
			}
			selected[s.Sel.Name][folder] = true
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return named, selected
}

// isOfAnotherModule reports whether there is a go.mod between top and a file.
func isOfAnotherModule(top, name string) bool {
	for dir := filepath.Dir(name); dir != top; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return true
		}
	}
	return false
}
