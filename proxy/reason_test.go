package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// TestEveryReasonHasItsMeaning: the constants of the file and the table say the same set.
func TestEveryReasonHasItsMeaning(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var declared []Reason
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); !ok || of.Name != "Reason" {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
			word, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			declared = append(declared, Reason(word))
		}
		return true
	})
	if len(declared) == 0 {
		t.Fatal("reason.go declares no Reason")
	}
	listed := Reasons()
	for _, r := range declared {
		if !slices.Contains(listed, r) || r.Meaning() == "" {
			t.Errorf("%s has no meaning in the table", r)
		}
	}
	for i, r := range listed {
		if !slices.Contains(declared, r) || slices.Contains(listed[:i], r) {
			t.Errorf("the table has %s, which is no constant, or has it twice", r)
		}
	}
	if m := Reason("nothing").Meaning(); m != "" {
		t.Errorf("a word that is no Reason means %q", m)
	}
}
