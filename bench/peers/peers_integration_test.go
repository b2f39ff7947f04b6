//go:build integration

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/ambassadord/ambassadord/bench/internal/benchtest"
	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// Once through all traffic, with those that need no package: everybody has every
// figure, and proxies their CPU time. On a busy machine a short measurement may see nothing of one.
func TestPeers(t *testing.T) {
	folder := t.TempDir()
	var r report.Result
	measure := func(duration string) (wrong []report.Sample) {
		r = report.Result{}
		benchtest.Run(t, &r, "-rounds", "1", "-duration", duration, "-contestants", "direct,plain,ambassadord", "-parts", "traffic", "-docs", folder)
		for _, s := range r.Samples {
			if s.Error != "" || s.Rate <= 0 || (s.CPU > 0) == (s.Contestant == report.Direct) {
				wrong = append(wrong, s)
			}
		}
		return wrong
	}
	if wrong := measure("100ms"); wrong != nil {
		if wrong = measure("1s"); wrong != nil {
			t.Errorf("%+v", wrong)
		}
	}
	measures := r.Measures(report.Private)
	if len(measures) < 10 || len(r.Samples) != 3*len(measures) {
		t.Errorf("%d samples of %q", len(r.Samples), measures)
	}
	for _, name := range []string{"performance.md", "performance.svg"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error(err)
		}
	}
}

// Two builds take turns, also with their ports: each has a figure in each round.
func TestPeersOfTwoBuilds(t *testing.T) {
	before := filepath.Join(t.TempDir(), "before")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", before, "../../cmd/ambassadord").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const rounds = 2
	measure := report.Churn(1)
	var r report.Result
	benchtest.Run(t, &r, "-rounds", strconv.Itoa(rounds), "-duration", "500ms", "-contestants", report.Ours, "-before", before, "-parts", "traffic", "-measures", measure)
	got := map[string]int{}
	for _, s := range r.Samples {
		if s.Measure != measure || s.Error != "" || s.Rate <= 0 {
			t.Errorf("%+v", s)
		}
		got[s.Contestant]++
	}
	if got[report.Ours] != rounds || got[report.Before] != rounds {
		t.Errorf("samples by contestant: %v; want %d of each build", got, rounds)
	}
}
