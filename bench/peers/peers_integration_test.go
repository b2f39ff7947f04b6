//go:build integration

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ambassadord/ambassadord/bench/internal/benchtest"
	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// Once through all traffic, with those that need no package: everybody has every
// figure, and proxies their CPU time.
func TestPeers(t *testing.T) {
	folder := t.TempDir()
	var r report.Result
	benchtest.Run(t, &r, "-rounds", "1", "-duration", "100ms", "-contestants", "direct,plain,ambassadord", "-parts", "traffic", "-docs", folder)
	measures := r.Measures(report.Private)
	if len(measures) < 10 || len(r.Samples) != 3*len(measures) {
		t.Errorf("%d samples of %q", len(r.Samples), measures)
	}
	for _, s := range r.Samples {
		if s.Error != "" || s.Rate <= 0 || (s.CPU > 0) == (s.Contestant == report.Direct) {
			t.Errorf("%+v", s)
		}
	}
	for _, name := range []string{"performance.md", "performance.svg"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error(err)
		}
	}
}
