package doctor

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// finds is a check with that result.
func finds(name string, r Result) Check {
	return Check{Name: name, Run: func(context.Context) Result { return r }}
}

func TestRunKeepsTheOrderAndTheWorst(t *testing.T) {
	good, doubtful, bad := ok("fine"), warn("look", "doubtful"), fail("mend", "broken\nagain\nand again")
	tests := []struct {
		name   string
		checks []Check
		want   Report
	}{
		{"nothing", nil, Report{Status: OK, Findings: []Finding{}}},
		{"all well", []Check{finds("b", good), finds("a", good)}, Report{Status: OK, Findings: []Finding{{"b", good}, {"a", good}}}},
		{"a warning", []Check{finds("a", doubtful), finds("b", good)}, Report{Status: Warn, Findings: []Finding{{"a", doubtful}, {"b", good}}}},
		{
			"a failure, whose text is made one line", []Check{finds("a", bad), finds("b", doubtful), finds("c", good)},
			Report{Status: Fail, Findings: []Finding{
				{"a", Result{Status: Fail, Summary: "broken (and 2 more like it)", Hint: "mend"}}, {"b", doubtful}, {"c", good},
			}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Run(t.Context(), tt.checks)); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

// Checks that hang cost their own time, once, and what the others found stays.
func TestRunNeverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stuck := func(context.Context) Result { <-release; return ok("at last") }
		began := time.Now()
		report := Run(t.Context(), []Check{
			{Name: "stuck", Run: stuck},
			{Name: "stuck as well", Timeout: 2 * time.Second, Run: stuck},
			{Name: "obeys", Timeout: time.Second, Run: func(ctx context.Context) Result { <-ctx.Done(); return undone(ctx.Err()) }},
			finds("quick", ok("fine")),
		})
		if took := time.Since(began); took != defaultTimeout+grace {
			t.Errorf("took %s, want that of the longest alone, %s", took, defaultTimeout+grace)
		}
		var got []string
		for _, f := range report.Findings {
			got = append(got, string(f.Status)+": "+f.Summary)
		}
		want := []string{
			"warn: not checked: no answer within 5s", "warn: not checked: no answer within 2s",
			"warn: not checked: context deadline exceeded", "ok: fine",
		}
		if !slices.Equal(got, want) {
			t.Errorf("findings:\n%q\nwant:\n%q", got, want)
		}
		close(release) // the two that were left behind end now
	})
}

func TestChecksHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Checks(t.Context(), Options{}) {
		if c.Name == "" || c.LooksAt == "" || seen[c.Name] || c.Run == nil {
			t.Errorf("check %q: empty, there twice, or does nothing", c.Name)
		}
		seen[c.Name] = true
	}
	if len(seen) == 0 {
		t.Error("there are no checks")
	}
}
