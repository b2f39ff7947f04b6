//go:build integration

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// Once through all traffic, with those that need no package: everybody has every
// figure, and proxies their CPU time.
func TestPeers(t *testing.T) {
	folder := t.TempDir()
	program := filepath.Join(folder, "peers")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path := filepath.Join(folder, "result.json")
	cmd := exec.CommandContext(t.Context(), program, "-rounds", "1", "-duration", "100ms", "-contestants", "direct,plain,ambassadord",
		"-parts", "traffic", "-json", path, "-docs", folder)
	// Asked to end, it takes along what it has started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
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
