package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/doctor"
)

// TestReportIsPrinted compares both forms of a report with their golden files.
func TestReportIsPrinted(t *testing.T) {
	report := doctor.Report{Status: doctor.Fail, Findings: []doctor.Finding{
		{Name: "privileges", Result: doctor.Result{Status: doctor.Fail, Summary: "mode redirect lacks NET_ADMIN", Hint: "add <it> & start again"}},
		{Name: "dns", Result: doctor.Result{Status: doctor.OK, Summary: "192.0.2.1:53 answers"}},
		{Name: "stale-rules", Result: doctor.Result{Status: doctor.Warn, Summary: "rules in /run/netns/a", Hint: "ambassadord rules remove"}},
	}}
	for _, format := range []string{"text", "json"} {
		var b strings.Builder
		if err := printReport(&b, output{format: format}, report); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile("testdata/doctor-" + format + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
	}
}

func TestExitGoesByTheWorst(t *testing.T) {
	for status, want := range map[doctor.Status]int{doctor.OK: 0, doctor.Warn: 3, doctor.Fail: 1} {
		err := exitWith(status)
		got := 0
		if s := exitStatus(0); errors.As(err, &s) {
			got = int(s)
		}
		if got != want || (want == 0) != (err == nil) {
			t.Errorf("%s: exit code %d (%v), want %d", status, got, err, want)
		}
	}
}
