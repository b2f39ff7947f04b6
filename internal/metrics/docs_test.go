package metrics

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the tables of docs/metrics.md, and deploy/prometheus and deploy/grafana")

// TestDocs holds the table of the page to the one in the program.
func TestDocs(t *testing.T) {
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
	tableOfPage(t, "metrics", out.String())
}

// TestAlertsPage holds the page to the alerts.
func TestAlertsPage(t *testing.T) {
	var out strings.Builder
	out.WriteString("\n| alert | severity | means | do |\n| --- | --- | --- | --- |\n")
	for _, a := range alertRules {
		cell := strings.NewReplacer("|", "\\|", "{{ $value | humanizePercentage }}", "so many", "{{ $value | humanize }} ", "").Replace
		when := a.severity + ", after " + a.hold
		if a.hold == "0m" {
			when = a.severity
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", a.name, when, cell(a.meaning), cell(a.action))
	}
	tableOfPage(t, "alerts", out.String())
}

// tableOfPage holds the table between the lines of that name in docs/metrics.md to want, or writes it.
func tableOfPage(t *testing.T, name, want string) {
	t.Helper()
	const page = "../../docs/metrics.md"
	begin, end := "<!-- "+name+": made by go test ./internal/metrics -update -->\n", "<!-- end of "+name+" -->\n"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(content), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks the lines around the table: %q and %q", page, begin, end)
	}
	isFile(t, page, before+begin+want+"\n"+end+after)
}

// TestMonitoringFiles holds what Prometheus and Grafana read to the tables that it is made of.
func TestMonitoringFiles(t *testing.T) {
	isFile(t, "../../deploy/prometheus/alerts.yml", alertsFile())
	isFile(t, "../../deploy/prometheus/alerts_test.yml", trialsFile())
	dashboard, err := dashboardFile()
	if err != nil {
		t.Fatal(err)
	}
	isFile(t, "../../deploy/grafana/ambassadord.json", dashboard)
}

// isFile holds a file to what the tests make of the program, or writes it.
func isFile(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(old)); diff != "" {
		t.Errorf("%s differs (-want +got); to write it: go test ./internal/metrics -update\n%s", file, diff)
	}
}
