package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/proxy"
)

// TestReadmeNamesEverything keeps the reference tables of the README in step
// with the program.
func TestReadmeNamesEverything(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	for _, reason := range proxy.Reasons() {
		if !strings.Contains(readme, "| `"+string(reason)+"` |") {
			t.Errorf("the README's table of reasons lacks %s", reason)
		}
	}
	root := rootCommand(nil)
	for _, cmd := range root.Commands() {
		if name := cmd.Name(); name != "help" && !cmd.Hidden && !strings.Contains(readme, "| `ambassadord "+name) {
			t.Errorf("the README's table of commands lacks %s", name)
		}
	}
	run, _, err := root.Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	run.Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(readme, "| `--"+f.Name+"` |") {
			t.Errorf("the README's table of flags lacks --%s", f.Name)
		}
		if d := f.Value.Type(); d == "duration" && !strings.Contains(readme, "| `--"+f.Name+"` | `"+f.DefValue+"` |") {
			t.Errorf("the README gives --%s another default than %s", f.Name, f.DefValue)
		}
	})
}

// TestTargetsPageNamesEveryField: of what resolve prints as JSON.
func TestTargetsPageNamesEveryField(t *testing.T) {
	text, err := os.ReadFile("../../docs/targets.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []any{resolvedJSON{}, endpointJSON{}, leftOutJSON{}, sourceJSON{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(printed)) {
			if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); !strings.Contains(string(text), "`"+name+"`") {
				t.Errorf("docs/targets.md lacks %s of %T", name, printed)
			}
		}
	}
}
