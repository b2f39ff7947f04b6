package option

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of docs/options.md")

const page = "../../docs/options.md"

// TestDocs holds the table of the page to the one in the program.
func TestDocs(t *testing.T) {
	const begin, end = "<!-- options: made by go test ./internal/option -update -->\n", "<!-- end of options -->\n"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(content), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks the lines around the table: %q and %q", page, begin, end)
	}
	want := tables()
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, old); diff != "" {
		t.Errorf("%s differs (-want +got); to write it: go test ./internal/option -update\n%s", page, diff)
	}
}

// tables is every option, a table for each group.
func tables() string {
	var out strings.Builder
	group := Group("")
	for _, o := range All() {
		if o.Group != group {
			group = o.Group
			fmt.Fprintf(&out, "\n## %s\n\n| option | default | takes | who | |\n| --- | --- | --- | --- | --- |\n", group)
		}
		preset := "`" + o.Default + "`"
		if o.Default == "" {
			preset = ""
		}
		takes := strings.Replace(o.Range, `\r \n \t \\ \xHH`, "`\\r`, `\\n`, `\\t`, `\\\\`, `\\xHH`", 1)
		if o.Kind == Enumeration {
			takes = "`" + strings.Join(o.Words, "`, `") + "`"
		}
		who := ""
		if o.Owner == Operator {
			who = "operator"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", o.Name, preset, takes, who, o.Help)
	}
	return out.String() + "\n"
}
