package registries

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables into docs/registries.md")

const (
	page  = "../../docs/registries.md"
	begin = "<!-- the tables are made by: go test ./internal/registries -update -->\n"
)

// Every fault has a cell for every registry, which promises something or says why not.
func TestTableIsWhole(t *testing.T) {
	for _, r := range Registries {
		for _, column := range r.Columns {
			for _, f := range r.Faults {
				if c := column.Cells[f.Name]; c.Promise == Nothing && c.Why == "" {
					t.Errorf("%s, %s, %s: nothing is said", r.Name, column.Name, f.Name)
				}
			}
			if len(column.Cells) != len(r.Faults) {
				t.Errorf("%s, %s: %d cells for %d faults", r.Name, column.Name, len(column.Cells), len(r.Faults))
			}
		}
	}
}

func TestPage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, got, ok := strings.Cut(string(text), begin)
	if !ok {
		t.Fatalf("%s does not say where the tables begin: %s", page, begin)
	}
	want := "\n" + Markdown()
	if got == want {
		return
	}
	if !*update {
		t.Fatalf("%s is stale: go test ./internal/registries -update", page)
	}
	if err := os.WriteFile(page, []byte(head+begin+want), 0o600); err != nil {
		t.Fatal(err)
	}
}
