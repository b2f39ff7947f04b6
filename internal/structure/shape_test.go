package structure

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// A rule that the tree does not keep everywhere has a list of the places where it does not.
// The lists only shrink: what has been mended is taken out, and nothing is put in. Most rules
// have none.

// breaches compares what breaks a rule with the list of what may still do so.
func breaches(t *testing.T, reason string, found map[string]string, listed []string) {
	t.Helper()
	for what, why := range found {
		if !slices.Contains(listed, what) {
			t.Errorf("%s: %s\n%s", what, why, reason)
		}
	}
	for i, what := range listed {
		if found[what] == "" {
			t.Errorf("%s breaks the rule no more: take it off the list", what)
		}
		if slices.Contains(listed[:i], what) {
			t.Errorf("%s is listed twice", what)
		}
	}
}

const (
	mostMethodFiles  = 4
	methodFileReason = "a type whose methods stand in more files than a reader keeps open is several types"
)

func TestMethodsStandTogether(t *testing.T) {
	files := map[string][]string{} // of a type, by its folder and name
	for _, f := range product(t) {
		for _, d := range f.tree.Decls {
			method, ok := d.(*ast.FuncDecl)
			if !ok || method.Recv == nil {
				continue
			}
			of := f.folder + "." + receiver(method)
			if !slices.Contains(files[of], path.Base(f.path)) {
				files[of] = append(files[of], path.Base(f.path))
			}
		}
	}
	found := map[string]string{}
	for of, in := range files {
		if len(in) > mostMethodFiles {
			found[of] = "has methods in " + strings.Join(in, ", ")
		}
	}
	breaches(t, methodFileReason, found, nil)
}

// receiver is the name of the type that a method is of.
func receiver(method *ast.FuncDecl) string {
	of := method.Recv.List[0].Type
	for {
		switch e := of.(type) {
		case *ast.StarExpr:
			of = e.X
		case *ast.IndexExpr:
			of = e.X
		case *ast.IndexListExpr:
			of = e.X
		case *ast.ParenExpr:
			of = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

const (
	mostFiles    = 15
	folderReason = "a folder is a room: with more files than fit a screen it has become several"
)

func TestFoldersAreSmall(t *testing.T) {
	files := map[string]int{}
	for _, f := range product(t) {
		files[f.folder]++
	}
	found := map[string]string{}
	for folder, n := range files {
		if n > mostFiles {
			found[folder] = "has many files"
		}
	}
	breaches(t, folderReason, found, nil)
}

const typeNameReason = "one word names one thing, in the whole tree: who has read of it in one package need not ask which is meant in another"

// TestATypeNameIsOfOneThing: an unexported type of one name is declared in one package only.
// Types within functions do not count.
func TestATypeNameIsOfOneThing(t *testing.T) {
	folders := map[string][]string{}
	for _, f := range product(t) {
		for _, d := range f.tree.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				if s, ok := s.(*ast.TypeSpec); ok && !s.Name.IsExported() {
					folders[s.Name.Name] = append(folders[s.Name.Name], f.folder)
				}
			}
		}
	}
	found := map[string]string{}
	for name, in := range folders {
		if len(in) > 1 {
			found[name] = "is a type in " + strings.Join(in, ", ")
		}
	}
	breaches(t, typeNameReason, found, nil)
}
