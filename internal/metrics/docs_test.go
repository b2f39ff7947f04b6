package metrics

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md")

// TestDocs holds the table of the page to the one in the program.
func TestDocs(t *testing.T) {
	const page = "../../docs/metrics.md"
	const begin, end = "<!-- metrics: made by go test ./internal/metrics -update -->\n", "<!-- end of metrics -->\n"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(content), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks the lines around the table: %q and %q", page, begin, end)
	}
	var out strings.Builder
	out.WriteString("\n| metric | type | labels | | means |\n| --- | --- | --- | --- | --- |\n")
	for _, f := range families {
		labels, promise := "", "unstable"
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "`, `") + "`"
		}
		if f.stable {
			promise = "stable"
		}
		help := strings.NewReplacer("--metrics-series", "`--metrics-series`", "--metrics-endpoints", "`--metrics-endpoints`").Replace(f.help)
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", f.name, f.kind, labels, promise, help)
	}
	out.WriteString("\n")
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+out.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(out.String(), old); diff != "" {
		t.Errorf("%s differs (-want +got); to write it: go test ./internal/metrics -update\n%s", page, diff)
	}
}
